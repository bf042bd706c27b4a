from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from pipelines.causal_wan.tensorfile import open_tensors
from pipelines.causal_wan.umt5 import UMT5TextEncoder, clean, load_tokenizer, load_umt5
from streamgen.errors import WeightsError
from tests.support.umt5 import BUCKETS, DIM, FFN, HEADS, INNER, LAYERS, LENGTH, VOCABULARY, make_tokenizer, umt5_state

CPU = torch.device("cpu")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(umt5_state(), path)
    return path


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return make_tokenizer(tmp_path)


def encoder(checkpoint: Path, tokenizer: Path, **changes: object) -> UMT5TextEncoder:
    settings: dict[str, object] = {
        "text_len": LENGTH,
        "device": CPU,
        "dtype": torch.float32,
        "weights_dtype": torch.float32,
    }
    return UMT5TextEncoder.load(checkpoint, tokenizer, **{**settings, **changes})  # type: ignore[arg-type]


def test_it_computes_what_wans_own_encoder_computes(original: Path, tokenizer: Path) -> None:
    t5 = pytest.importorskip("models.wan.wan_base.modules.t5", reason="the published package is not installed")
    theirs = t5.T5Encoder(VOCABULARY, DIM, INNER, FFN, HEADS, LAYERS, BUCKETS, shared_pos=False, dropout=0.0).eval()
    theirs.load_state_dict(umt5_state())
    tokens = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for prompt in ("oil", "pencil sketch", "a quick brown fox jumps over it"):
        ids = tokens.encode(prompt).ids
        count = min(len(ids), LENGTH)
        padded = torch.tensor([(ids if len(ids) <= LENGTH else [*ids[: LENGTH - 1], 1]) + [0] * (LENGTH - count)])
        expected = theirs(padded, (torch.arange(LENGTH) < count)[None].long())
        expected[:, count:] = 0.0
        with torch.no_grad():
            torch.testing.assert_close(encoder(original, tokenizer).encode(prompt), expected, atol=1e-5, rtol=1e-5)


def transformers_state() -> dict[str, Tensor]:
    config = UMT5Config(
        vocab_size=VOCABULARY, d_model=DIM, d_kv=INNER // HEADS, d_ff=FFN, num_layers=LAYERS, num_heads=HEADS,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False,
    )  # fmt: skip
    torch.manual_seed(1)
    return {name: tensor.clone() for name, tensor in UMT5EncoderModel(config).state_dict().items()}


@pytest.mark.parametrize(
    "embedding",
    [("shared.weight",), ("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")],
)
def test_the_layout_of_transformers_loads_too_in_shards_as_well(
    tmp_path: Path, tokenizer: Path, embedding: tuple[str, ...]
) -> None:
    state = transformers_state()
    both = {"shared.weight", "encoder.embed_tokens.weight"}
    kept = {name: tensor for name, tensor in state.items() if name not in both or name in embedding}
    single, shards = tmp_path / "single", tmp_path / "text_encoder"
    single.mkdir()
    shards.mkdir()
    save_file(kept, single / "model.safetensors")
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(kept)}
    for shard in set(places.values()):
        save_file({name: kept[name] for name, place in places.items() if place == shard}, shards / shard)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    one = encoder(single / "model.safetensors", tokenizer).encode("pencil sketch")
    assert torch.equal(encoder(shards, tokenizer).encode("pencil sketch"), one)
    ids = torch.tensor([Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode("pencil sketch").ids])
    model = load_umt5(open_tensors(single), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(one[:, : ids.shape[1]], model(ids).last_hidden_state)


def test_the_embedding_has_its_shape_format_and_zeros_behind_the_end(original: Path, tokenizer: Path) -> None:
    subject = encoder(original, tokenizer, dtype=torch.bfloat16)
    for prompt, tokens in (("", 1), ("oil", 2), ("oil ink", 3), ("x" * 300, LENGTH)):
        embedding = subject.encode(prompt)
        assert (embedding.shape, embedding.dtype) == ((1, LENGTH, DIM), torch.bfloat16)
        assert torch.isfinite(embedding).all()
        assert int(embedding.abs().sum(dim=-1).count_nonzero()) == tokens


def test_a_prompt_runs_once_while_it_is_remembered(
    original: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_umt5(open_tensors(original), torch.float32)
    subject = UMT5TextEncoder(
        model, load_tokenizer(tokenizer), text_len=LENGTH, device=CPU, dtype=torch.float32, offload=True, remembered=2
    )
    runs: list[str] = []
    run = subject._run
    monkeypatch.setattr(subject, "_run", lambda text: runs.append(text) or run(text))
    for prompt in ("oil", "ink", " oil ", "oil", "pencil", "oil", "ink"):
        subject.encode(prompt)
    assert runs == ["oil", "ink", "pencil", "ink"]


def test_what_the_caller_does_to_an_embedding_is_not_remembered(original: Path, tokenizer: Path) -> None:
    subject = encoder(original, tokenizer)
    before = subject.encode("a long prompt of many words").clone()
    subject.encode("a long prompt of many words").zero_()
    assert torch.equal(subject.encode("a long prompt of many words"), before)


def test_offloaded_weights_are_on_the_device_only_while_they_run(original: Path, tokenizer: Path) -> None:
    """With torch's meta device in the place of a GPU: only where tensors are can be looked at."""
    meta = torch.device("meta")
    subject = encoder(original, tokenizer, device=meta, offload=True)
    seen: list[int] = []
    layers = [module for name, module in subject._encoder.named_modules() if name.endswith("SelfAttention.q")]
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, _: seen.append([m.weight.device.type for m in layers].count("meta"))
        )
    assert subject.encode("oil").device == meta
    assert seen == [1] * LAYERS  # one at a time
    assert {layer.weight.device for layer in layers} == {CPU}
    kept = encoder(original, tokenizer, device=meta, offload=False)
    assert {parameter.device for parameter in kept._encoder.block.parameters()} == {meta}
    assert kept._embedding.device == CPU


def test_weights_are_mapped_in_the_files_own_format(tmp_path: Path) -> None:
    path = tmp_path / "t5.pth"
    torch.save({name: tensor.bfloat16() for name, tensor in umt5_state().items()}, path)
    model = load_umt5(open_tensors(path), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.shared.weight.data_ptr() == model.encoder.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  oil \n\t painting ", "oil painting"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("schÃ¶n", "schön"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_wan_cleans_them(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("blocks.1.attn.q.weight", None, "missing: encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("blocks.0.pos_embedding.embedding.weight", None, "missing: encoder.block.0.*relative_attention_bias"),
        ("norm.weight", torch.zeros(3), r"of another shape: encoder.final_layer_norm.weight \(3,\) instead of \(16,\)"),
        ("blocks.0.attn.bias", torch.zeros(3), "unknown: blocks.0.attn.bias"),
        ("token_embedding.weight", None, "is no UMT5 encoder"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    state = {**umt5_state(), name: tensor}
    path = tmp_path / "t5.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    with pytest.raises(WeightsError, match=f"^t5.pth .*{message}"):
        load_umt5(open_tensors(path), torch.float32)


def test_a_missing_or_broken_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="tokenizer not found"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        load_tokenizer(tmp_path)
