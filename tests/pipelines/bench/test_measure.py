from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.bench.case import WAN, Case, Denoising, Model
from pipelines.bench.flops import Peak
from pipelines.bench.measure import measured
from pipelines.bench.published import Package, package
from pipelines.bench.report import markdown
from pipelines.bench.stopwatch import Patience
from pipelines.bench.workshop import Workshop, lacking

CPU = torch.device("cpu")
MODEL = Model.of_preset(WAN, {"dim": 128, "layers": 1, "text_dim": 16, "text_len": 8})
QUICK = Patience(least=1, most=1, seconds=0.0)
PACKAGE = package()

Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def measure() -> Measure:
    """Measures a case of the small model, with the published package if it is wanted."""
    workshops: dict[bool, Workshop] = {}

    def run(denoising: Denoising, beside: Package | None = None) -> dict[str, Any]:
        shop = workshops.setdefault(
            beside is not None, Workshop(CPU, [torch.float32], beside, lambda dtype: "sdpa")
        )  # fmt: skip
        case = Case(MODEL, 64, 64, 2, "taehv", denoising)
        return measured(case, shop.contenders(case), CPU, QUICK, Peak(CPU))

    return run


def test_ours_alone(measure: Measure) -> None:
    entry = measure("sequential")
    for what in ("dit", "encode", "decode", "chunk"):
        assert entry[what]["ms"] > 0
        assert 0 < entry[what]["flops_share"] < 1.5
        assert "ratio" not in entry[what]
    assert entry["fps"] > 0
    assert entry["ttff_ms"] > 0
    assert entry["reference_dtype"] is None
    assert entry["weights_mib"] > 40  # TAEHV alone has 11.3 million numbers


@pytest.mark.skipif(isinstance(PACKAGE, str), reason=str(PACKAGE))
@pytest.mark.parametrize("denoising", ["sequential", "batch"])
def test_the_published_package_beside_it_computes_the_same(measure: Measure, denoising: Denoising) -> None:
    assert isinstance(PACKAGE, Package)
    entry = measure(denoising, PACKAGE)
    for what in ("dit", "encode", "decode", "chunk"):
        assert entry[what]["ratio"] == pytest.approx(entry[what]["reference_ms"] / entry[what]["ms"], rel=1e-2)
    assert entry["difference"]["float32"] < 1e-5
    assert set(entry["by_dtype"]) == {"ours float32", "published float32"}


def test_a_table_for_people() -> None:
    stage = {"ms": 10.0, "flops_share": 0.5}
    entry = {what: stage | {"reference_ms": 25.0, "ratio": 2.5} for what in ("dit", "encode", "decode", "chunk")}
    entry |= {"dtype": "bfloat16", "reference_dtype": "float32", "fps": 400.0, "ttff_ms": 30.0}
    alone = dict.fromkeys(("dit", "encode", "decode", "chunk"), stage)
    alone |= {"dtype": "float32", "reference_dtype": None, "fps": 400.0, "ttff_ms": 30.0, "memory_mib": 2048}
    results = {"one": entry, "two": alone, "three": {"skipped": "no time left for it"}}
    text = markdown(results, {"cpu": "a CPU", "cores": 2, "gpu": []}, {"torch": "2"})
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1
    assert "10.0 / 25.0 (2.50x)" in text
    assert "bfloat16 / float32" in text
    assert "no time left for it" in text


def test_a_codec_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lacking("taehv") is None
    assert "diffusers" in str(lacking("wan"))
