from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import PRESETS
from streamgen import planning
from streamgen.costfile import CostFile
from streamgen.doctor import Finding, Gpu
from streamgen.engine import StageTimes
from streamgen.errors import ConfigError
from streamgen.scheduler.cost import UNKNOWN, Shape

GB = 10**9
H100 = Gpu("NVIDIA H100 80GB HBM3", 85 * GB)


def asked(**changes: object) -> argparse.Namespace:
    """The doctor's arguments."""
    nothing = dict.fromkeys(("gpus", "preset", "fps", "steps", "slo_ms", "cost_folder"))
    return argparse.Namespace(**{**nothing, "sessions": 1, **changes})


def about(preset: str, findings: list[Finding]) -> list[Finding]:
    """What is said of a preset: where it goes, then why nowhere else."""
    first = next(i for i, finding in enumerate(findings) if finding.text.startswith(f"placement of {preset} "))
    rest = next((i for i, f in enumerate(findings[first + 1 :]) if not f.text.startswith("  not ")), len(findings))
    return findings[first : first + 1 + rest]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("4x80", [Gpu("GPU of 80 GB", 80 * GB)] * 4),
        ("8x80GB", [Gpu("GPU of 80 GB", 80 * GB)] * 8),
        ("24.5", [Gpu("GPU of 24.5 GB", int(24.5 * GB))]),
        ("2xH100, l4", [Gpu("H100", 80 * GB)] * 2 + [Gpu("L4", 24 * GB)]),
        ("2 x rtx4090", [Gpu("RTX 4090", 24 * GB)] * 2),
        ("RTX 6000 Ada", [Gpu("RTX 6000 Ada", 48 * GB)]),
    ],
)
def test_gpus_are_named_by_size_or_kind(text: str, gpus: list[Gpu]) -> None:
    assert planning.gpus_of(text) == gpus


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is a list such as 4x80"),
        ("2x80,", "is a list such as 4x80"),
        ("4xfoo", "'foo' is no size such as 80 .GB., and none of B200"),
        ("0", "'0' is no size"),
        ("A100-40", "'A100-40' is no size"),
        ("0x80", "1 to 64 of them, not 0"),
        ("60xL4,5xL4", "1 to 64 of them, not 65"),
        ("-1x80", "'-1x80' is no size"),
    ],
)
def test_what_is_no_list_of_gpus_says_why(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        planning.gpus_of(text)


def test_for_this_machine_there_are_two_lines_for_each_preset_with_a_model() -> None:
    findings = list(planning.of_this_machine(asked())([H100] * 4))
    assert findings[0] == Finding("note", planning.LEGEND)
    assert [finding.text.split()[2] for finding in findings[1::2]] == ["tiny", "wan-1.3b", "wan-14b"]
    place, why = about("wan-14b", findings)
    assert place.level == "ok"
    assert place.text.startswith("placement of wan-14b for 1 session of 16 fps, 1 step, 1000 ms (estimated): 4 x 1:")
    assert why == Finding("note", "  not 2 x 2: a chunk takes 0.095 s instead of 0.094")


def test_one_gpu_has_one_placement() -> None:
    (place,) = about("wan-1.3b", list(planning.of_this_machine(asked())([H100])))
    assert place.text.endswith(
        "(estimated): 1 x 1: holds 4 sessions; a chunk takes 0.05 s of 0.81; no time for a further one"
    )


def test_for_other_machines_everything_that_was_looked_at_is_told() -> None:
    findings = list(planning.of_others(asked(gpus="4xRTX 4090", preset="wan-14b")))
    assert findings[0].text == "plans for 4 x RTX 4090"
    assert [finding.text.split(":")[0].split(") ")[-1] for finding in findings[3:]] == [
        "  not 1 x 3, 1 idle",
        "  not 2 x 2",
        "  not 4 x 1",
    ]
    assert findings[2].text.split(": ")[1] == "1 x 4"


def test_what_serves_less_than_was_asked_for_is_no_ok() -> None:
    few = list(planning.of_others(asked(gpus="H100", preset="wan-14b", sessions=3)))
    assert few[2].level == "note"
    assert "holds 2 of the 3 sessions" in few[2].text
    none = list(planning.of_others(asked(gpus="2x8", preset="wan-14b")))
    assert none[2].level == "note"
    assert ": none; 2 x 1: does not fit" in none[2].text


def test_the_load_may_be_chosen() -> None:
    wish = asked(gpus="4xH100", preset="wan-14b", sessions=2, fps=60.0, steps=1, slo_ms=500.0)
    place = list(planning.of_others(wish))[2]
    assert "for 2 sessions of 60 fps, 1 step, 500 ms (estimated): 2 x 2: holds 2 sessions" in place.text


def test_a_gpu_of_unknown_kind_says_what_it_is_taken_for() -> None:
    assert next(planning.of_others(asked(gpus="2x80,L4"))).text == (
        "plans for 2 x GPU of 80 GB (as fast as A100), 1 x L4"
    )


def test_what_a_service_measured_here_is_used_instead_of_an_estimate(tmp_path: Path) -> None:
    preset = PRESETS["wan-1.3b"]
    shape = Shape(4, preset.defaults.width, preset.defaults.height)
    times = StageTimes(0.0, 0.01, 2 * 0.04, 0.02, 1, 2, 2, 1)
    CostFile(tmp_path, "wan-1.3b", f"{H100.name}, bfloat16, compiled").save(UNKNOWN.seeded([(shape, times)]))
    findings = list(planning.of_this_machine(asked(cost_folder=tmp_path))([H100]))
    assert "(measured): 1 x 1: holds 2 sessions; a chunk takes 0.11 s of 0.81" in about("wan-1.3b", findings)[0].text
    assert "(estimated)" in about("wan-14b", findings)[0].text


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"sessions": 0}, "--sessions must be at least 1, not 0"),
        ({"preset": "gigantic"}, "no preset 'gigantic'; there are "),
        ({"fps": 99.0}, "--fps: must be from 1.0 to 60.0, not 99.0"),
        ({"steps": 9}, "--steps: must be from 1 to 4, not 9"),
        ({"slo_ms": 1.0}, "--slo-ms: must be from 50.0"),
    ],
)
def test_what_cannot_be_planned_for_names_the_flag(wrong: dict[str, object], why: str) -> None:
    for plan in (planning.of_this_machine, lambda arguments: list(planning.of_others(arguments))):
        with pytest.raises(ConfigError, match=why):
            plan(asked(gpus="L4", **wrong))


def test_presets_without_a_model_have_no_place() -> None:
    assert len(list(planning.of_others(asked(gpus="L4", preset="passthrough")))) == 2


def test_plans_need_no_torch() -> None:
    program = (
        "import sys; from streamgen import cli;"
        "status = cli.main(['doctor', '--gpus', '4x80', '--sessions', '8', '--fps', '16'], {});"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
