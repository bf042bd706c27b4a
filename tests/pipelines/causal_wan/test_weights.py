from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.causal_wan import weights
from streamgen.errors import WeightsError


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))


def saved(folder: Path, **changes: torch.Tensor | None) -> Path:
    tensors = {**model().state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}
    path = folder / "model.safetensors"
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata={"made": "by a test"})
    return path


def test_weights_are_loaded_in_the_models_format(tmp_path: Path) -> None:
    target = model()
    path = saved(tmp_path, **{"0__bias": torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)})
    assert weights.load(target, path) == {"made": "by a test"}
    assert target.state_dict()["0.bias"].tolist() == [1.0, 2.0, 3.0]
    assert target.state_dict()["0.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"0__bias": None}, "missing: 0.bias"),
        ({"extra": torch.zeros(1)}, "unknown: extra"),
        ({"1__weight": torch.zeros(2, 3)}, r"1.weight \(2, 3\) instead of \(1, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, torch.Tensor | None], named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        weights.load(model(), saved(tmp_path, **changes))


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not found"):
        weights.load(model(), tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="no readable safetensors"):
        weights.load(model(), broken)
