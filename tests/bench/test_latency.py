"""The benchmark against a service that echoes after a known delay."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamgen.bench import cli
from streamgen.bench.latency import Outcome, Settings, check, measure
from streamgen.bench.measure import Figures
from streamgen.client import Client
from streamgen.errors import ConnectError, ServiceError
from tests.support.clips import make_clip
from tests.support.echo_service import Behaviour, EchoService

ECHO = Path(__file__).parents[1] / "support" / "echo_service.py"
DELAY_S = 0.2


@pytest.fixture
def service() -> Iterator[EchoService]:
    with EchoService(Behaviour(delay_s=DELAY_S)) as running:
        yield running


async def run(service: EchoService, **settings) -> Outcome:
    async with Client(service.url) as client:
        return await measure(client, Settings(tail_s=0.8, **settings))


async def test_the_known_delay_is_what_is_measured(service: EchoService):
    outcome = await run(service, seconds=2.5, params={"prompt": "cat"})
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    latency = it.glass_to_glass_ms["p50"]
    assert latency is not None
    assert latency >= DELAY_S * 1000  # below would be a fault of the measure; how far above is the machine's business
    assert it.ttff_ms is not None
    assert it.ttff_ms >= DELAY_S * 1000
    assert it.frames_sent >= 10
    assert it.frames_sent - 3 <= it.frames_received <= it.frames_sent
    assert it.unreadable <= it.frames_received // 10
    assert it.deadline_misses == 7
    assert outcome.overall is not None
    assert outcome.overall.frames_sent == it.frames_sent
    (session,) = service.sessions.values()
    assert session.params == {"prompt": "cat", "fps": 16.0, "width": 320, "height": 192, "stamp": True}


async def test_several_sessions_and_lost_frames(service: EchoService):
    service.behaviour.drop_every = 3
    outcome = await run(service, seconds=1.5, sessions=2)
    assert outcome.errors == []
    for it in outcome.sessions:
        assert isinstance(it, Figures)
        assert it.frames_received < it.frames_sent
        assert it.drops["echo"] >= 3
        assert it.foreign == 0
    assert check(outcome, {}) == []


async def test_another_sessions_pixels_are_noticed(service: EchoService):
    service.behaviour.mix_up = True
    outcome = await run(service, seconds=1.5, sessions=2)
    assert any("another session's" in line for line in check(outcome, {}))


async def test_a_session_that_is_refused_does_not_end_the_others(service: EchoService):
    service.behaviour.busy = True
    outcome = await run(service, seconds=1, sessions=2)
    assert outcome.overall is None
    assert outcome.errors == [f"session {n}: all places are taken (retry after 7 s)" for n in (1, 2)]
    assert isinstance(outcome.sessions[0], ServiceError)
    assert outcome.as_dict()["sessions"] == [{"error": "all places are taken (retry after 7 s)"}] * 2


def figures(**changes) -> Figures:
    values = {
        "ttff_ms": 500.0,
        "glass_to_glass_ms": {"p50": 1.0, "p95": 100.0, "p99": 1.0, "max": 1.0},
        "jitter_ms": 1.0,
        "fps_in": 16.0,
        "fps_out": 12.0,
        "frames_sent": 1,
        "frames_received": 1,
        "deadline_misses": 0,
        "drops": {},
        "first_5s_p50": 10.0,
        "last_5s_p50": 30.0,
        "unreadable": 0,
        "foreign": 0,
    }
    return Figures(**(values | changes))


@pytest.mark.parametrize(
    ("gate", "limit", "misses"),
    [
        ("max_ttff_ms", 499, "ttff_ms 500.0 is over 499"),
        ("max_ttff_ms", 500, None),
        ("max_p95_ms", 99, "p95_ms 100.0 is over 99"),
        ("max_p95_ms", 101, None),
        ("min_fps_out", 12.5, "fps_out 12.0 is under 12.5"),
        ("min_fps_out", 12, None),
        ("max_growth_ms", 19, "growth_ms 20.0 is over 19"),
        ("max_growth_ms", 20, None),
    ],
)
def test_gates(gate: str, limit: float, misses: str | None):
    outcome = Outcome((figures(), ConnectError("gone")), None)
    assert check(outcome, {gate: limit}) == ([f"session 1: {misses}"] if misses else [])


def test_a_gate_on_what_was_not_measured_is_missed():
    outcome = Outcome((figures(ttff_ms=None, first_5s_p50=None),), None)
    assert len(check(outcome, {"max_ttff_ms": 1e9, "max_growth_ms": 1e9})) == 2


def test_the_program_from_start_to_report(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "serve_command", lambda extra: [sys.executable, str(ECHO), *extra])
    monkeypatch.syspath_prepend(str(ECHO.parents[2]))
    clip = make_clip(tmp_path / "clip.mp4")
    report = tmp_path / "report.json"
    status = cli.main(
        [
            "--seconds",
            "1.5",
            "--input",
            str(clip),
            "--json",
            str(report),
            "--serve-args",
            "--delay 0.05",
            "--max-p95-ms",
            "1",
        ]
    )
    assert status == 1
    printed = capsys.readouterr()
    assert "session 1: p95_ms" in printed.err
    title, row = printed.out.splitlines()
    assert title.split()[0] == "session"
    assert row.split()[0] == "1"
    written = json.loads(report.read_text())
    assert set(written) == {"command", "machine", "versions", "results"}
    assert str(tmp_path) not in report.read_text()
    assert written["command"].startswith("latency_benchmark --serve-args '--delay 0.05' --seconds 1.5 --input clip.mp4")
    assert written["results"]["overall"]["frames_received"] > 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--width", "100"], "--width"),
        (["--height", "10"], "--height"),
        (["--sessions", "0"], "--sessions"),
        (["--input", "none.mp4"], "there is no file none.mp4"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capsys):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--seconds", "-1"], ["--fps", "x"], ["--max-p95-ms", "nan"], ["--no-such"]])
def test_what_the_parser_refuses(arguments: list[str], capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_server_that_is_not_there(capsys):
    assert cli.main(["--url", "http://127.0.0.1:9", "--seconds", "1"]) == 1
    error = capsys.readouterr().err
    assert "connection refused" in error
    assert len(error.splitlines()) == 1


def test_a_report_that_cannot_be_written_is_said(service: EchoService, tmp_path: Path, capsys):
    arguments = ["--url", service.url, "--seconds", "0.5", "--json", str(tmp_path / "no" / "report.json")]
    assert cli.main(arguments) == 1
    assert "cannot write" in capsys.readouterr().err


def test_the_token_and_the_address_stay_out_of_the_report():
    args = cli._parser().parse_args(["--url", "http://secret.host", "--token", "hush", "--steps", "3", "--fps", "30"])
    assert cli.command(args) == "latency_benchmark --url URL --fps 30 --steps 3"
