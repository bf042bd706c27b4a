import json
from pathlib import Path
from typing import Any

import pytest

from streamgen.bench import cli
from streamgen.bench.compare import Report, read, table, worse
from tests.support.figures import outcome_of, session_log

OLD: dict[str, Any] = {"ttff_ms": 800.0, "glass_to_glass_ms": {"p50": 200.0, "p95": 400.0}, "drops": {"late": 4}}


def report(name: str, **overall: Any) -> Report:
    return Report(name, overall)


def written(tmp_path: Path, name: str, results: object) -> Path:
    file = tmp_path / name
    file.write_text(json.dumps({"command": "", "machine": {}, "versions": {}, "results": results}))
    return file


def test_figures_side_by_side_with_difference_and_ratio():
    one = report("a.json", **OLD)
    other = report("b.json", ttff_ms=400.0, glass_to_glass_ms={"p50": 250.0, "p95": 400.0}, miss_rate=0.015)
    text = table(one, other)
    assert text.splitlines()[0].split() == ["a.json", "b.json", "difference", "ratio"]
    rows = {" ".join(cells[:-4]): cells[-4:] for cells in (line.split() for line in text.splitlines()[1:])}
    assert rows == {
        "ttff_ms": ["800", "400", "-400", "0.50"],
        "glass to glass p50": ["200", "250", "+50", "1.25"],
        "glass to glass p95": ["400", "400", "0", "1.00"],
        "miss_rate": ["-", "0.015", "-", "-"],
        "dropped late": ["4", "-", "-", "-"],
    }


def test_this_versions_own_report_is_read_whole(tmp_path: Path):
    outcome = outcome_of(session_log(), session_log(1), drops={"late": 2})
    it = read(written(tmp_path, "a.json", outcome.as_dict()))
    text = table(it, it)
    for name in ("miss_rate", "rung changes", "stage denoise", "dropped late", "admitted", "waited_s", "jitter_ms"):
        assert name in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("b", "faults"),
    [
        ({"p95": 440.0}, []),
        ({"p95": 441.0}, ["p95 is 441 in b and 400 in a"]),
        ({"p95": 100.0}, []),
        ({"miss_rate": 0.024}, []),  # less than half a point
        ({"miss_rate": 0.03}, ["miss rate is 0.03 in b and 0.02 in a"]),
        ({"miss_rate": None}, []),
        ({"p95": None}, ["b has no p95: nothing came back"]),
    ],
)
def test_worse_is_what_is_higher_by_more_than_that(b: dict[str, float | None], faults: list[str]):
    def made(name: str, values: dict[str, float | None]) -> Report:
        return report(name, glass_to_glass_ms={"p95": values["p95"]}, miss_rate=values["miss_rate"])

    a: dict[str, float | None] = {"p95": 400.0, "miss_rate": 0.02}
    assert worse(made("a", a), made("b", a | b), 10.0) == faults


def test_what_an_older_report_lacks_is_not_held_against_it():
    assert worse(report("a", **OLD), report("b", **OLD, miss_rate=0.5), 10.0) == []
    assert worse(report("a", **OLD, miss_rate=0.5), report("b", **OLD), 10.0) == []


def test_the_program(tmp_path: Path, capsys):
    one = written(tmp_path, "a.json", {"sessions": [], "overall": OLD})
    other = written(tmp_path, "b.json", {"sessions": [], "overall": {"glass_to_glass_ms": {"p95": 500.0}}})
    arguments = ["--compare", str(one), str(other)]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--worse-than", "10"]) == 1
    assert cli.main([*arguments, "--worse-than", "30"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("+100") == 3
    assert printed.err == "error: p95 is 500 in b.json and 400 in a.json\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no report of the latency benchmark"),
        ('{"results": {"memory": 3}}', "is no report of the latency benchmark"),
    ],
)
def test_what_is_no_report(tmp_path: Path, text: str | None, says: str, capsys):
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    assert cli.main(["--compare", str(file), str(file)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def test_a_report_in_which_nothing_was_measured(tmp_path: Path):
    it = read(written(tmp_path, "a.json", {"sessions": [], "overall": None}))
    assert table(it, it).split() == ["a.json", "a.json", "difference", "ratio"]
    assert worse(it, it, 0.0) == []


def test_worse_than_needs_something_to_compare(capsys):
    assert cli.main(["--worse-than", "10"]) == 2
    assert "--compare" in capsys.readouterr().err
