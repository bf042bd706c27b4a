from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.causal_wan.tensorfile import open_tensors
from streamgen.errors import WeightsError

CPU = torch.device("cpu")
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(3)}


def save(folder: Path, kind: str, tensors: Any = TENSORS) -> Path:
    path = folder / "model.bin"  # the name says nothing on purpose
    match kind:
        case "safetensors":
            save_file(tensors, path)
        case "pickle":
            torch.save(tensors, path)
        case "old pickle":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
        case "shards":
            path = folder / "model.safetensors.index.json"
            save_file({"a.weight": tensors["a.weight"]}, folder / "model-00001-of-00002.safetensors")
            save_file(
                {k: v for k, v in tensors.items() if k != "a.weight"}, folder / "model-00002-of-00002.safetensors"
            )
            places = {name: f"model-0000{1 if name == 'a.weight' else 2}-of-00002.safetensors" for name in tensors}
            path.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": places}))
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "old pickle", "shards"])
def test_every_kind_of_file_gives_its_shapes_and_its_tensors(tmp_path: Path, kind: str) -> None:
    file = open_tensors(save(tmp_path, kind))
    assert dict(file.shapes) == {"a.weight": (2, 3), "a.bias": (2,), "steps": ()}
    read = file.read("a.weight", CPU, torch.bfloat16)
    assert read.dtype == torch.bfloat16
    assert torch.equal(read.float(), TENSORS["a.weight"])
    assert file.read("steps", CPU, torch.bfloat16).dtype == torch.int64  # a number of steps is no weight


def test_a_folder_stands_for_the_checkpoint_in_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint"):
        open_tensors(tmp_path)
    save_file(TENSORS, tmp_path / "one.safetensors")
    assert open_tensors(tmp_path).name == "one.safetensors"
    save_file(TENSORS, tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match=r"one\.safetensors, two\.safetensors"):
        open_tensors(tmp_path)
    save(tmp_path, "shards")
    assert open_tensors(tmp_path).name == "model.safetensors.index.json"


def test_the_inner_dictionaries_of_a_pickle_are_named(tmp_path: Path) -> None:
    content = {"generator": {"a": torch.ones(1)}, "step": 7, "critic": {"b": torch.ones(2), "lr": 0.1}}
    assert set(open_tensors(save(tmp_path, "pickle", content)).shapes) == {"generator.a", "critic.b"}


def test_tensors_of_a_zipped_pickle_are_mapped_and_not_read(tmp_path: Path) -> None:
    path = save(tmp_path, "pickle", {"big": torch.zeros(16 * 2**20)})  # 64 MiB
    before = resident_bytes()
    tensor = open_tensors(path).stored("big")
    assert tensor.numel() == 16 * 2**20
    assert resident_bytes() - before < 32 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "old pickle"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = save(tmp_path, kind, {"a": torch.randn(64, 64)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "model.bin")


def test_a_shard_that_is_cut_off_or_missing_is_named(tmp_path: Path) -> None:
    index = save(tmp_path, "shards")
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    refused(index, shard.name)
    shard.unlink()
    refused(index, shard.name)


def test_shards_that_do_not_hold_what_the_index_says_are_refused(tmp_path: Path) -> None:
    index = save(tmp_path, "shards")
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**places, "b": "model-00001-of-00002.safetensors"}}))
    refused(index, "lacks b")
    index.write_text(json.dumps({"weight_map": {k: v for k, v in places.items() if k != "a.bias"}}))
    refused(index, "holds a.bias")
    index.write_text(json.dumps({"weight_map": {**places, "a.bias": "../elsewhere.safetensors"}}))
    refused(index, "outside its folder")
    index.write_text('{"weights": 3}')
    refused(index, "no index")


class Code:
    """What runs when a careless program loads it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("kind", ["pickle", "old pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    proof = tmp_path / "ran"
    path = save(tmp_path, kind, {"a": torch.ones(2), "b": Code(proof)})
    message = refused(path, "model.bin is refused", "code")
    assert ("system" in message) == (kind == "pickle")
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"\x80\x04garbage", b"PK\x03\x04garbage", b"{}", b"{", b"\xff" * 64]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    refused(path, "weights.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {"lr": 0.1}, torch.ones(2)])
def test_a_pickle_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    refused(save(tmp_path, "pickle", content), "no named tensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", "not found", str(tmp_path / "none.pt"))


def refused(path: Path, *words: str) -> str:
    with pytest.raises(WeightsError) as caught:
        open_tensors(path)
    message = caught.value.message
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
