from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import pytest

from streamgen import offline, remote
from streamgen.errors import ConfigError, MediaFileError, ServiceError, StreamgenError
from streamgen.jobs.files import JobFiles
from streamgen.remote import Errand
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import UNKNOWN
from streamgen.server import Server, listen
from streamgen.web import create_app
from tests.support.clips import make_clip
from tests.support.jobs import Workshop
from tests.support.processes import until
from tests.test_web import FakeBackend


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


class Service(Workshop):
    """A workshop behind HTTP."""

    url = ""


@pytest.fixture
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    made = Service(max_jobs=2, max_upload_mb=1)
    pages = tmp_path_factory.mktemp("pages")
    app = create_app(FakeBackend(), made.metrics, pages, token="secret", jobs=made.jobs)
    server = Server(app)
    server.config.timeout_graceful_shutdown = 1
    with closing(listen("127.0.0.1", 0)) as listener:
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        yield made
        await made.stop()
        server.should_exit = True
        await serving


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "POLL_S", 0.01)
    monkeypatch.setattr("streamgen.jobs.job.PAUSE_S", 0.0)  # the clock stands still while nothing runs
    monkeypatch.delenv("STREAMGEN_TOKEN", raising=False)


def errand(service: Service, source: Path, target: Path, **asked: Any) -> Errand:
    return Errand(service.url, "secret", source, target, {"prompt": "ink", "width": 128, "height": 64} | asked)


async def test_a_file_goes_there_and_its_copy_comes_back(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = make_clip(tmp_path / "in.mp4", audio="aac"), tmp_path / "out.webm"
    await remote._restyle(errand(service, source, target), None)
    with av.open(target) as container:
        assert (container.streams.video[0].codec_context.name, len(container.streams.audio)) == ("vp9", 1)
        assert len(list(container.decode(video=0))) == 10
    out, err = capsys.readouterr()
    assert out.startswith(f"{target}: 10 frames, 128x64, in ")
    assert err == ""
    assert files_in(tmp_path) == [source, target]
    assert (service.left, service.jobs._held) == ([], {})


async def test_damage_is_told(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_clip(tmp_path / "in.mkv", range(0, 4000, 100))
    content = bytearray(source.read_bytes())
    content[-700:-600] = bytes(100)
    source.write_bytes(content)
    await remote._restyle(errand(service, source, tmp_path / "out.mkv"), None)
    assert "frames, 128x64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": {"prompt": "bad"}}, "could not restyle in.mp4: the engine failed 3 times at frame 0"),
        ({"asked": {"prompt": "ink", "width": 100}}, "width: must be a multiple of 16"),
        ({"token": None}, "--token"),
        ({"token": "wrong"}, "--token"),
        ({"url": "http://127.0.0.1:1"}, "is the service running there?"),
        ({"url": "ftp://nowhere"}, "no http:// or https:// address"),
        ({"source": "text"}, "cannot be read as a video"),
        ({"source": "none"}, "there is no file"),
        ({"source": "large"}, "--max-upload-mb"),
        ({"target": "dir"}, "cannot be written"),
    ],
)
async def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    service: Service, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    files = {name: tmp_path / f"{name}.mp4" for name in ("in", "text", "none", "large", "dir", "out")}
    make_clip(files["in"])
    files["text"].write_text("no video")
    files["large"].write_bytes(bytes(8_000_000))
    files["dir"].mkdir()
    before = files_in(tmp_path)
    plan = errand(service, files[change.get("source", "in")], files[change.get("target", "out")])
    plan = Errand(
        change.get("url", plan.url),
        change.get("token", plan.token),
        plan.source,
        plan.target,
        change.get("asked", plan.asked),
    )
    with pytest.raises(StreamgenError) as caught:
        await remote._restyle(plan, None)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert files_in(tmp_path) == before
    await until(lambda: (service.left, service.jobs._held) == ([], {}))


async def test_a_service_that_takes_no_more_says_when_to_come_again(service: Service, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    service.engine.gate.clear()
    for _ in range(2):
        await service.submit(source)
    with pytest.raises(ServiceError, match="as many jobs as it takes; try again later"):
        await remote._restyle(errand(service, source, tmp_path / "out.mp4"), None)


async def test_a_network_that_fails_for_a_while_costs_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True] * (remote.TRIES - 1))
    job = remote.JobApi.job

    async def sometimes(self: Any, job_id: str) -> Any:
        if next(failures, False):
            raise remote.ConnectError("the network is gone")
        return await job(self, job_id)

    monkeypatch.setattr(remote.JobApi, "job", sometimes)
    target = tmp_path / "out.mp4"
    await remote._restyle(errand(service, make_clip(tmp_path / "in.mp4"), target), None)
    assert target.is_file()


@pytest.mark.parametrize("moment", ["sends", "waits", "runs"])
async def test_ctrl_c_cancels_the_job_there_and_leaves_nothing(
    service: Service, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = make_clip(tmp_path / "in.mp4", range(0, 9000, 100)), tmp_path / "out.mp4"
    if moment == "waits":
        service.loop.begin(Capacity(sessions=1), UNKNOWN, 1)
        service.session()
    stored, append = asyncio.Event(), JobFiles.append

    async def held_up(self: JobFiles, content: bytes) -> None:
        await stored.wait()
        await append(self, content)

    monkeypatch.setattr(JobFiles, "append", held_up)
    if moment != "sends":
        stored.set()
    service.engine.one_by_one = True
    words = f"run {source} --prompt ink --width 128 --height 64 -o {target} --url {service.url} --token secret"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamgen.cli", *words.split()), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    conditions: dict[str, Callable[[], bool]] = {
        "sends": lambda: bool(service.jobs._arriving),
        "waits": lambda: any(held.job.position for held in service.jobs._held.values()),
        "runs": lambda: any(held.job.frames_done for held in service.jobs._held.values()),
    }
    await until(conditions[moment])
    await asyncio.sleep(0.1)  # it has its answer
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out.decode()) == (130, "")
    assert err.decode() == f"interrupted; {target} was not written\n"
    stored.set()
    await until(lambda: (service.left, service.jobs._held, service.jobs._arriving) == ([], {}, set()))
    assert files_in(tmp_path) == [source]


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    offline.add_arguments(parser)
    return offline.run(parser.parse_args(words))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--url http://h --preset tiny", "--preset"),
        ("--url http://h --device cpu --threads 2", "--device, --threads"),
        (
            "--url http://h --attention sdpa --compile --lora a --stream-batch",
            "--attention, --compile, --lora, --stream",
        ),
        ("--token x", "--token goes with --url"),
    ],
)
def test_options_that_cannot_go_together_are_wrong_usage(tmp_path: Path, options: str, named: str) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(ConfigError, match=named):
        run(str(source), "--prompt", "ink", "-o", str(tmp_path / "out.mp4"), *options.split())


def test_what_is_wrong_in_itself_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(MediaFileError, match="must end in"):
        run(str(source), "--prompt", "ink", "-o", str(tmp_path / "out.avi"), "--url", "http://127.0.0.1:1")


def test_the_token_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.token_of(None) is None
    monkeypatch.setenv("STREAMGEN_TOKEN", "hush")
    assert (remote.token_of(None), remote.token_of("given")) == ("hush", "given")
