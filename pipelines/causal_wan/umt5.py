"""Wan2.1's text encoder, UMT5-XXL, over transformers' UMT5EncoderModel: run once per prompt, off the hot path.

Wan pads a prompt to 512 tokens, masks the padding out and sets what comes of it to zero. Padding that is masked out
changes nothing for the others, so only a prompt's own tokens are run here (Wan2.1, arXiv 2503.20314, section 4.2).
"""

from __future__ import annotations

import html
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import ftfy
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import UMT5Config, UMT5EncoderModel

from pipelines.causal_wan import weights
from pipelines.causal_wan.tensorfile import Shape, TensorFile, open_tensors
from streamgen.errors import WeightsError

_CPU = torch.device("cpu")

_EMBEDDING = "token_embedding.weight"

_TRANSFORMERS_EMBEDDING = "shared.weight"

_TIED_EMBEDDING = "encoder.embed_tokens.weight"
"""The same table again under another name."""

_TO_TRANSFORMERS = {
    _EMBEDDING: _TRANSFORMERS_EMBEDDING,
    "norm.weight": "encoder.final_layer_norm.weight",
}

_BLOCK_TO_TRANSFORMERS = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


class UMT5TextEncoder:
    """Prompts to what the DiT's cross-attention takes (parts.TextEncoder).

    With `offload` the weights stay in the host's memory, mapped from their file, and each layer is on the device only
    while it runs. The embeddings of the last prompts are remembered.
    """

    def __init__(
        self,
        model: UMT5EncoderModel,
        tokenizer: Tokenizer,
        *,
        text_len: int,
        device: torch.device,
        dtype: torch.dtype,
        offload: bool,
        remembered: int = 64,
    ) -> None:
        self._embedding = model.shared.weight.detach()  # stays on the host: a prompt needs few of its rows
        self._encoder = model.encoder
        self._encoder.block = nn.ModuleList(Visitor(block, device, stays=not offload) for block in model.encoder.block)
        self._encoder.final_layer_norm.to(device)
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(text_len)
        self._tokenizer.no_padding()
        self._text_len, self._device, self._dtype = text_len, device, dtype
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self._capacity = remembered
        self._lock = Lock()

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        tokenizer: Path,
        *,
        text_len: int,
        device: torch.device,
        dtype: torch.dtype,
        offload: bool = True,
        weights_dtype: torch.dtype = torch.bfloat16,
    ) -> UMT5TextEncoder:
        """The encoder with the weights of `checkpoint`, in Wan's own layout or that of transformers and Diffusers.

        checkpoint: file or folder; tokenizer: a tokenizer.json, or the folder that holds it; dtype: of the embeddings.
        Raises WeightsError.
        """
        model = load_umt5(open_tensors(checkpoint), weights_dtype)
        return cls(
            model, load_tokenizer(tokenizer), text_len=text_len, device=device, dtype=dtype, offload=offload
        )  # fmt: skip

    def encode(self, prompt: str) -> Tensor:
        """Embedding (1, text_len, text_dim), zero behind the prompt's end, on the DiT's device and in its format."""
        text = clean(prompt)
        with self._lock:
            found = self._remembered.pop(text, None)
            if found is None:
                found = self._run(text)
            self._remembered[text] = found
            while len(self._remembered) > self._capacity:
                self._remembered.popitem(last=False)
        return F.pad(found, (0, 0, 0, self._text_len - found.shape[1]))

    @torch.inference_mode()
    def _run(self, text: str) -> Tensor:
        """Embedding (1, tokens, text_dim) of a prompt's own tokens."""
        ids = torch.tensor([self._tokenizer.encode(text).ids])
        embedded = F.embedding(ids, self._embedding).to(self._device)
        out: Tensor = self._encoder(inputs_embeds=embedded).last_hidden_state
        return out.to(self._dtype)


class Visitor(nn.Module):
    """A layer that runs on a device. Its weights stay there, or come for each run and are forgotten."""

    def __init__(self, layer: nn.Module, device: torch.device, *, stays: bool) -> None:
        super().__init__()
        self._layer = layer.to(device) if stays else layer
        self._device = device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weights_there = {name: tensor.to(self._device) for name, tensor in self._layer.named_parameters()}
        return functional_call(self._layer, weights_there, args, kwargs)


def clean(prompt: str) -> str:
    """A prompt as Wan gives it to its tokenizer: broken text mended, HTML entities resolved, whitespace made single."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", mended.strip()).strip()


def load_tokenizer(place: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the one in a folder, as it is written there. Raises WeightsError."""
    path = place / "tokenizer.json" if place.is_dir() else place
    if not path.is_file():
        raise WeightsError(f"tokenizer not found: {path}")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library knows no narrower one
        raise WeightsError(f"{path} is no readable tokenizer: {' '.join(str(error).split())[:200]}") from error


def load_umt5(file: TensorFile, dtype: torch.dtype) -> UMT5EncoderModel:
    """The encoder of a checkpoint, on the CPU; its sizes are those of the file's tensors. Raises WeightsError."""
    names = _names_in(file)
    config = _config(file, names)
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items() if name != _TIED_EMBEDDING}
    found = {name: file.shapes[own] for name, own in names.items()}
    weights.check_fit(file.name, found, expected)
    tensors = {name: file.read(own, _CPU, dtype) for name, own in names.items()}
    weights.fill(model, {**tensors, _TIED_EMBEDDING: tensors[_TRANSFORMERS_EMBEDDING]})
    model.train(False)
    return model


def _names_in(file: TensorFile) -> dict[str, str]:
    """transformers' names of a file's tensors, with their names in the file."""
    if _EMBEDDING in file.shapes:
        return {_transformers_name(name): name for name in file.shapes}
    if _TRANSFORMERS_EMBEDDING in file.shapes or _TIED_EMBEDDING in file.shapes:
        names = {name: name for name in file.shapes if name.startswith("encoder.") and "embed_tokens" not in name}
        both = (_TRANSFORMERS_EMBEDDING, _TIED_EMBEDDING)
        return {_TRANSFORMERS_EMBEDDING: next(name for name in both if name in file.shapes), **names}
    raise WeightsError(f"{file.name} is no UMT5 encoder: it has {', '.join(list(file.shapes)[:3])}")


def _transformers_name(name: str) -> str:
    if name in _TO_TRANSFORMERS:
        return _TO_TRANSFORMERS[name]
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if block and block[2] in _BLOCK_TO_TRANSFORMERS:
        return f"encoder.block.{block[1]}.{_BLOCK_TO_TRANSFORMERS[block[2]]}.weight"
    return name


def _config(file: TensorFile, names: Mapping[str, str]) -> UMT5Config:
    """The sizes of the encoder, read off its tensors."""

    def shape(name: str) -> Shape:
        if name not in names or len(file.shapes[names[name]]) != 2:
            raise WeightsError(f"{file.name} does not fit the model: missing: {name}")
        return file.shapes[names[name]]

    first = "encoder.block.0.layer.0.SelfAttention"
    vocabulary, dim = shape(_TRANSFORMERS_EMBEDDING)
    buckets, heads = shape(f"{first}.relative_attention_bias.weight")
    layers = {name.split(".")[2] for name in names if name.startswith("encoder.block.")}
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=shape(f"{first}.q.weight")[0] // heads,
        d_ff=shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        num_layers=len(layers),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
