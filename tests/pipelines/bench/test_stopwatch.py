import torch

from pipelines.bench.stopwatch import Laps, Patience, interleaved

CPU = torch.device("cpu")


def test_contenders_take_turns_and_change_sides() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(contenders, CPU, Patience(least=1, most=3, seconds=60.0))
    assert "".join(calls) == "abc" + "cba" + "abc"
    assert set(times) == set("abc")


def test_patience_ends_but_not_before_the_least() -> None:
    calls: list[int] = []
    interleaved({"a": lambda: calls.append(1)}, CPU, Patience(least=3, most=100, seconds=0.0))
    assert len(calls) == 3


def test_laps_part_a_run_into_stages() -> None:
    laps = Laps(CPU)
    for _ in range(3):
        laps.start()
        laps("first")
        sum(range(200_000))
        laps("second")
    medians = laps.medians()
    assert list(medians) == ["first", "second"]
    assert 0 <= medians["first"] < medians["second"]
