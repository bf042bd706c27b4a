"""The benchmark against a service that echoes after a known delay."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamgen.bench import cli, options
from streamgen.bench.gates import check
from streamgen.bench.latency import Outcome, Settings, measure
from streamgen.bench.measure import Figures
from streamgen.bench.trace import Arrival
from streamgen.client import Client
from streamgen.errors import ServiceError
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


async def test_one_that_is_refused_asks_again_while_there_is_patience(service: EchoService):
    service.behaviour.refuse_offers, service.behaviour.retry_after = 2, "0"
    outcome = await run(service, seconds=1, patience_s=20.0)
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert it.frames_received > 0
    assert (it.admission.admitted, it.admission.refused, it.admission.retries) == (True, 2, 2)
    assert it.admission.waited_s > 0


async def test_one_that_is_never_let_in_is_no_failure_of_the_run(service: EchoService):
    service.behaviour.busy, service.behaviour.retry_after = True, "0"
    outcome = await run(service, seconds=1, patience_s=0.5)
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert outcome.errors == []
    assert not it.admission.admitted
    assert it.admission.reason.startswith("all places are taken")
    assert (it.frames_sent, it.ttff_ms, it.misses) == (0, None, None)
    assert check(outcome, {}) == [f"no session was let in: {it.admission.reason}"]


async def test_one_that_waits_in_the_queue_until_it_ends(service: EchoService):
    service.behaviour.queued = True
    outcome = await run(service, seconds=1, params={"slo_ms": 500.0})
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert it.admission.queued
    assert not it.admission.admitted
    assert it.admission.positions == (2,)
    assert it.admission.reason == "still in the queue after 1 s"
    assert it.drops == {}
    assert (it.misses, it.frames_sent, it.frames_due) == (0, 0, 0)  # it sent nothing meanwhile


async def other_side(service: EchoService, act: Callable[[str], None]) -> None:
    """Does so to the first session, once it is there and its channel is open."""
    for _ in range(200):
        if service.sessions and next(iter(service.sessions.values())).channel:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(act, next(iter(service.sessions)))


async def test_one_that_is_let_in_after_a_while(service: EchoService):
    service.behaviour.queued = True
    waits = asyncio.create_task(other_side(service, service.admit))
    outcome = await run(service, seconds=2.5)
    await waits
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert it.admission.queued
    assert it.admission.admitted
    assert it.admission.waited_s > 0.5
    assert it.frames_received > 0
    assert it.ttff_ms is not None
    assert it.ttff_ms > 500  # the wait is part of it


async def test_one_that_is_sent_away_from_the_queue_was_not_let_in(service: EchoService):
    service.behaviour.queued = True
    ends = asyncio.create_task(other_side(service, lambda session: service.end(session, "the queue is closed")))
    outcome = await run(service, seconds=2.5)
    await ends
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert not it.admission.admitted
    assert "the queue is closed" in it.admission.reason


async def test_smaller_results_are_read_and_the_rung_and_the_stages_are_told(service: EchoService):
    service.behaviour.scale = 0.75
    service.behaviour.stages_ms = {"fill": 10.0, "denoise": 30.0}
    quality = {"type": "quality", "rung": 2, "rungs": 4, "steps": 1, "fps": 16.0, "width": 240, "height": 144}
    message = quality | {"vae": "light", "reason": "load"}
    says = asyncio.create_task(other_side(service, lambda session: service.say(session, message)))
    outcome = await run(service, seconds=2.5)
    await says
    (it,) = outcome.sessions
    assert isinstance(it, Figures)
    assert it.frames_received >= 10
    assert it.unreadable <= it.frames_received // 10
    assert (it.rungs.rungs, it.rungs.changes, it.rungs.reasons) == (4, 1, {"load": 1})
    assert it.rungs.seconds["2"] > 0
    assert it.stages_ms == {"fill": 10.0, "denoise": 30.0}
    assert it.outside_ms is not None
    assert it.outside_ms >= DELAY_S * 1000 - 40


async def test_sessions_come_when_they_are_to_each_with_its_own_parameters(service: EchoService):
    arrivals = (
        Arrival(1.0, 16.0, 320, 192, params={"prompt": "cat", "slo_ms": 50.0}),
        Arrival(0.8, 12.0, 128, 64, start_s=0.7, params={"prompt": "dog"}),
    )
    outcome = await run(service, arrivals=arrivals, jitter_ms=20.0)
    first, second = outcome.sessions
    assert isinstance(first, Figures)
    assert isinstance(second, Figures)
    assert first.misses == first.frames_received - first.unreadable > 0  # the delay alone is longer
    assert (first.slo_ms, second.slo_ms, second.misses) == (50.0, None, None)
    assert second.start_s == 0.7
    one, other = outcome.logs
    assert other.opened - one.opened >= 0.7 - 0.05
    assert second.unreadable <= second.frames_received // 5
    params = [session.params for session in service.sessions.values()]
    assert params[1] == {"prompt": "dog", "fps": 12.0, "width": 128, "height": 64, "stamp": True}


def test_the_program_from_start_to_report(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "serve_command", lambda extra: [sys.executable, str(ECHO), *extra])
    monkeypatch.syspath_prepend(str(ECHO.parents[2]))
    clip = make_clip(tmp_path / "clip.mp4")
    report = tmp_path / "report.json"
    files = [str(tmp_path / name) for name in ("sessions.csv", "frames.csv", "page.html")]
    status = cli.main(
        [
            *("--seconds", "1.5", "--input", str(clip), "--json", str(report), "--serve-args", "--delay 0.05"),
            *("--sessions", "2", "--ramp-s", "0.3", "--max-p95-ms", "1", "--slo-ms", "50", "--max-miss-rate", "2.5"),
            *("--csv", files[0], "--frames-csv", files[1], "--html", files[2]),
        ]
    )
    assert status == 1
    printed = capsys.readouterr()
    assert "session 1: p95_ms" in printed.err
    assert "missed 50 ms; at most 2.5 %" in printed.err
    title, first, second, every, *_ = printed.out.splitlines()
    assert [line.split()[0] for line in (title, first, second, every)] == ["session", "1", "2", "all"]
    written = json.loads(report.read_text())
    assert set(written) == {"command", "machine", "versions", "results"}
    assert str(tmp_path) not in report.read_text()
    assert written["command"] == (
        "latency_benchmark --serve-args '--delay 0.05' --seconds 1.5 --sessions 2 --ramp-s 0.3 --input clip.mp4 "
        "--slo-ms 50 --max-miss-rate 2.5 --max-p95-ms 1"
    )
    assert written["results"]["overall"]["frames_received"] > 5
    assert [session["start_s"] for session in written["results"]["sessions"]] == [0.0, 0.3]
    sessions, frames, page = (Path(file).read_text() for file in files)
    assert len(sessions.splitlines()) == 3
    assert len(frames.splitlines()) == written["results"]["overall"]["frames_sent"] + 1
    assert "missed 50 ms" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--width", "100"], "--width"),
        (["--height", "10"], "--height"),
        (["--sessions", "0"], "--sessions"),
        (["--sessions", "257"], "--sessions"),
        (["--sessions", "5", "--ramp-s", "9"], "--ramp-s: 5 sessions 9 s apart do not fit into 20 s"),
        (["--trace", "none.csv"], "cannot read none.csv"),
        (["--trace", "none.csv", "--ramp"], "leave out --sessions and --ramp"),
        (["--input", "none.mp4"], "there is no file none.mp4"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capsys):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--seconds", "-1"], ["--fps", "x"], ["--max-p95-ms", "nan"], ["--jitter-ms", "-1"], ["--no-such"]]
)
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
    words = "--url http://secret.host --token hush --steps 3 --fps 30 --ramp --trace /home/me/day.csv --html x.html"
    args = options.parser().parse_args(words.split())
    assert options.command(args) == "latency_benchmark --url URL --fps 30 --ramp --trace day.csv --steps 3"


def test_the_help_tells_how_a_trace_is_written(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "start_s,seconds,fps,width,height,slo_ms,prompt" in text
    assert "latency_benchmark --compare before.json after.json" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_what_is_given_is_what_is_sent():
    args = options.parser().parse_args("--keep fps --priority live --slo-ms 700 --patience 9 --jitter-ms 5".split())
    settings = options.settings(args)
    assert settings.each()[0].params == {
        "prompt": "a pencil drawing", "slo_ms": 700.0, "keep": "fps", "priority": "live",
    }  # fmt: skip
    assert (settings.patience_s, settings.jitter_ms) == (9.0, 5.0)
