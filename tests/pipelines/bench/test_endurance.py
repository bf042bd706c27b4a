from dataclasses import replace

import pytest

from pipelines.bench.endurance import RULES, Part, Run, endure


@pytest.mark.parametrize("name", RULES)
def test_some_hundred_chunks_leave_no_trace(name: str) -> None:
    run = endure(RULES[name], chunks=240, part=80)
    assert list(run.faults()) == []
    assert run.chunks == 240
    assert run.first.std > 0.1


def test_every_fault_is_told() -> None:
    part = Part(mean=0.0, std=1.0, largest=3.0)
    good = Run(1000, finite=True, first=part, last=part, warm_mib=100.0, end_mib=101.0, ms_per_chunk=1.0)
    assert list(good.faults()) == []
    for change, told in (
        ({"finite": False}, "not finite"),
        ({"last": replace(part, mean=0.1)}, "mean"),
        ({"last": replace(part, std=0.9)}, "spread"),
        ({"last": replace(part, std=float("nan"))}, "spread"),
        ({"end_mib": 150.0}, "grown from 100 to 150 MiB"),
    ):
        (fault,) = replace(good, **change).faults()
        assert told in fault


def test_parts_are_of_all_numbers_together() -> None:
    part = Part.of([(2.0, 4.0, 2.0, 2), (6.0, 12.0, 3.0, 4)])
    assert part == Part(mean=8 / 6, std=pytest.approx((16 / 6 - (8 / 6) ** 2) ** 0.5), largest=3.0)


def test_too_short_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no first and last 80"):
        endure(RULES["tiny"], chunks=100, part=80)
