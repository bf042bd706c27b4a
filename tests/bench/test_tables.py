import csv
import io
from dataclasses import replace

import pytest

from streamgen.bench.latency import Outcome
from streamgen.bench.tables import COLUMNS, FRAME_COLUMNS, frames_csv, sessions_csv, table
from streamgen.errors import ConnectError
from tests.support.figures import outcome_of, session_log, some_figures, waiting_log


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_what_people_read():
    text = table(outcome_of(session_log(), waiting_log(), drops={"rate": 40, "late": 2}))
    titles, first, second, every, *further = text.splitlines()
    assert titles.split()[0] == "session"
    assert [line.split()[0] for line in (first, second, every)] == ["1", "2", "all"]
    assert second.split()[2:6] == ["-"] * 4
    assert "dropped by the service (1): late 2, rate 40" in further
    assert any(line.startswith("the service's time, mean ms (1): fill 60, queue 20") for line in further)
    (quality,) = (line for line in further if line.startswith("quality (1)"))
    assert quality.startswith("quality (1): rung 0 ")
    assert quality.endswith("rung 2 3.0 s; 3 changes (load 2, room 1)")
    assert (
        "admission (2): refused 1 times, asked again 1 times; queued at 3, 2; never let in after 8.0 s "
        "(still in the queue after 8 s)"
    ) in further
    assert (
        "admission (all): refused 1 times, asked again 1 times; 1 queued; 1 let in, the longest wait 8.0 s" in further
    )


def test_one_session_that_had_no_trouble_takes_two_lines():
    text = table(Outcome((some_figures(),), some_figures()))
    assert len(text.splitlines()) == 2
    assert len(text.splitlines()[0].split("  ")) >= len(COLUMNS)


def test_a_row_per_session():
    run = outcome_of(session_log(), waiting_log(), drops={"rate": 40, "late": 2})
    outcome = Outcome((*run.sessions, ConnectError("gone")), run.overall, run.logs)
    first, second, third = rows(sessions_csv(outcome))
    assert (first["session"], first["admitted"], first["drops_late"], first["drops_rate"]) == ("1", "1", "2", "40")
    assert (first["stage_denoise_ms"], first["rung_2_s"], first["rung_changes"]) == ("80.0", "3.0", "3")
    assert float(first["p50_ms"]) > 200
    assert float(first["outside_ms"]) > 0
    assert float(first["miss_rate"]) > 0
    assert (second["admitted"], second["queued"], second["positions"]) == ("0", "1", "3 2")
    assert (second["waited_s"], second["refused"], second["p50_ms"], second["outside_ms"]) == ("8.0", "1", "", "")
    assert (third["session"], third["error"], third["frames_sent"]) == ("3", "gone", "")


def test_no_cell_is_a_formula():
    (row,) = rows(sessions_csv(Outcome((ConnectError("=1+1"),), None)))
    assert row["error"] == "'=1+1"


def test_a_row_per_frame():
    run = outcome_of(session_log(), waiting_log())
    found = rows(frames_csv(run))
    assert tuple(found[0]) == FRAME_COLUMNS
    assert len(found) == 161
    assert found[0] == {
        "session": "1", "id": "0", "sent": "0.5", "received": "", "latency_ms": "", "rung": "",
    }  # fmt: skip
    assert (found[1]["id"], found[1]["rung"]) == ("1", "0")
    took = float(found[1]["received"]) - float(found[1]["sent"])
    assert took == pytest.approx(float(found[1]["latency_ms"]) / 1000, abs=1e-3)
    assert found[101]["rung"] == "2"
    assert found[-1]["session"] == "2"


def test_a_frame_that_came_twice_has_one_row():
    log = session_log(frames=8)
    log.samples.append(replace(log.samples[-1], received=50.0, latency=40.0))
    found = rows(frames_csv(outcome_of(log)))
    assert len(found) == 8
    assert float(found[-1]["latency_ms"]) < 1000
