from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from streamgen import app, cli
from streamgen.cluster.options import Plan
from streamgen.config import Config
from streamgen.errors import PresetError


def run(capsys: pytest.CaptureFixture[str], *words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    try:
        status = cli.main(words, environ or {})
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configurations with which the service would have been started."""
    configs: list[Config] = []
    monkeypatch.setattr(app, "serve", lambda config, announce: configs.append(config))
    monkeypatch.setattr(cli, "log_to_stderr", lambda verbose: None)
    return configs


def test_serve_has_the_defaults_of_its_configuration(capsys: pytest.CaptureFixture[str], served: list[Config]) -> None:
    assert run(capsys, "serve", environ={"XDG_CACHE_HOME": "/cache"}) == (0, "", "")
    assert served == [Config(cost_folder=Path("/cache/streamgen/costs"))]


def test_every_setting_has_its_flag(capsys: pytest.CaptureFixture[str], served: list[Config]) -> None:
    words = (
        "serve --preset tiny --host 0.0.0.0 --port 9000 --device cpu --threads 2 --max-sessions 7 --token secret"
        " --allow-origin https://a.example --allow-origin https://b.example --ice-server stun:s.example"
        " --turn-secret shared --udp-ports 50000-50100 --loopback"
        " --connect-timeout-s 1 --idle-timeout-s 2 --grace-s 5 --max-viewers 6 --max-queue 9"
        " --cost-folder /costs --job-timeout-s 3 --start-timeout-s 4"
        " --max-jobs 3 --max-upload-mb 100 --keep-jobs-s 60"
    )
    assert run(capsys, *words.split())[0] == 0
    assert served == [
        Config(
            "tiny",
            "0.0.0.0",
            9000,
            "cpu",
            7,
            9,
            "secret",
            ("https://a.example", "https://b.example"),
            ("stun:s.example",),
            "shared",
            (50000, 50100),
            True,
            1.0,
            2.0,
            5.0,
            6,
            3.0,
            4.0,
            2,
            cost_folder=Path("/costs"),
            max_jobs=3,
            max_upload_mb=100,
            keep_jobs_s=60.0,
        )
    ]


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu,cpu", ("cpu", "cpu")),
        ("0,1", ("cuda:0", "cuda:1")),
        ("cuda:2, 0", ("cuda:2", "cuda:0")),
        ("3", ("cuda:3",)),
    ],
)
def test_devices_may_be_numbers(
    capsys: pytest.CaptureFixture[str], served: list[Config], text: str, devices: tuple[str, ...]
) -> None:
    assert run(capsys, "serve", "--devices", text)[0] == 0
    assert [config.devices for config in served] == [devices]


def test_blocks_may_be_held_where_they_are(capsys: pytest.CaptureFixture[str], served: list[Config]) -> None:
    assert run(capsys, "serve", "--devices", "0,1,2", "--blocks", "0,4, 2")[0] == 0
    assert [config.blocks for config in served] == [(0, 4, 2)]


@pytest.fixture
def fleets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Plan]]:
    """With what fleets would have been started."""
    begun: list[tuple[Config, Plan]] = []
    modules = {
        "streamgen.cluster.actors": SimpleNamespace(RayNodes=SimpleNamespace(open="ray")),
        "streamgen.cluster.run": SimpleNamespace(serve=lambda config, plan, nodes, _: begun.append((config, plan))),
    }
    monkeypatch.setattr(cli, "_load", modules.__getitem__)
    monkeypatch.setattr(cli, "log_to_stderr", lambda verbose: None)
    monkeypatch.setattr(cli, "reach", lambda address: address)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: name)
    return begun


def test_a_fleet_has_the_settings_of_a_service_and_its_own(
    capsys: pytest.CaptureFixture[str], fleets: list[tuple[Config, Plan]]
) -> None:
    words = "serve --cluster 127.0.0.1:6379 --replicas 2 --preset fake --port 0 --token x --max-sessions 9 --relay"
    assert run(capsys, *words.split(), environ={"XDG_CACHE_HOME": "/cache"}) == (0, "", "")
    config = Config("fake", port=0, token="x", max_sessions=9, cost_folder=Path("/cache/streamgen/costs"))
    assert fleets == [(config, Plan("127.0.0.1:6379", 2, relays=True))]


def test_a_fleet_without_a_token_is_pointed_out_even_where_its_gateway_is_private(
    capsys: pytest.CaptureFixture[str], fleets: list[tuple[Config, Plan]]
) -> None:
    status, _, err = run(capsys, "serve", "--cluster", "127.0.0.1:6379")
    assert (status, err) == (0, "note: whoever can reach the machines of the fleet can use this service; set --token\n")


def test_a_fleet_says_what_it_lacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: name)
        status, out, err = run(capsys, "serve", "--cluster", address, "--token", "x")
        assert (status, out) == (1, "")
        assert err.startswith(f"error: no Ray can be reached at {address} ")
        monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
        missing = "error: ray is missing; install it with: pip install 'streamgen[cluster]'\n"
        assert run(capsys, "serve", "--cluster", address, "--token", "x") == (1, "", missing)


def test_the_token_may_come_from_the_environment(capsys: pytest.CaptureFixture[str], served: list[Config]) -> None:
    run(capsys, "serve", environ={"STREAMGEN_TOKEN": "hush"})
    run(capsys, "serve", environ={"STREAMGEN_TOKEN": ""})
    assert [config.token for config in served] == ["hush", None]
    assert "hush" not in run(capsys, "serve", "--help", environ={"STREAMGEN_TOKEN": "hush"})[1]


def test_an_open_service_on_an_open_address_is_pointed_out(
    capsys: pytest.CaptureFixture[str], served: list[Config]
) -> None:
    assert "--token" in run(capsys, "serve", "--host", "0.0.0.0")[2]
    assert run(capsys, "serve", "--host", "0.0.0.0", "--token", "x")[2] == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "COMMAND"),
        (("fly",), "fly"),
        (("serve", "--port", "x"), "--port"),
        (("serve", "--port", "99999"), "--port must be from 0 to 65535"),
        (("serve", "--max-sessions", "0"), "--max-sessions"),
        (("serve", "--ice-server", "http://x"), "--ice-server"),
        (("serve", "--udp-ports", "50000"), "50000-50100"),
        (("serve", "--udp-ports", "-1-5"), "--udp-ports"),
        (("serve", "--udp-ports", "50100-50000"), "--udp-ports must be FIRST-LAST"),
        (("serve", "--job-timeout-s", "0"), "--job-timeout-s"),
        (("serve", "--devices", "0,,1"), "--devices takes cpu, N or cuda:N between commas, not ''"),
        (("serve", "--devices", "0,0"), "--devices has cuda:0 twice"),
        (("serve", "--devices", "0,1", "--device", "cpu"), "--devices and --device exclude each other"),
        (("serve", "--devices", "0,1", "--blocks", "3"), "--blocks is a number for each of --devices"),
        (("serve", "--devices", "0,1", "--blocks", "3,x"), "'3,x' are no numbers between commas"),
        (("serve", "--replicas", "2"), "--replicas means something with --cluster only"),
        (("serve", "--cluster", "here"), "--cluster takes"),
        (("models",), "COMMAND"),
        (("doctor", "--gpus", "4xfoo"), "--gpus: 'foo' is no size"),
        (("doctor", "--steps", "9"), "--steps: must be from 1 to 4"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert why in err


def test_a_busy_port_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(capsys, "serve", "--port", str(port)) == (
            1,
            "",
            f"error: port {port} is in use; choose another with --port\n",
        )


def test_an_unknown_preset_is_one_line_that_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "serve", "--preset", "gigantic", "--port", "0")
    assert status == 1
    assert err == "error: no preset 'gigantic'; there are " + ", ".join(p.name for p in app.preset_infos()) + "\n"


def test_errors_of_several_lines_are_told_in_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PresetError("first\n  second")

    monkeypatch.setattr(app, "serve", fail)
    assert run(capsys, "serve") == (1, "", "error: first second\n")


def test_ctrl_c_needs_no_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "serve", interrupt)
    assert run(capsys, "serve") == (130, "", "")


def test_models_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "models", "list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [preset.name for preset in app.preset_infos()]


def test_doctor_reports_and_tells_by_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert "can run streamgen" in out


def test_doctor_plans_for_other_machines(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *"doctor --gpus 4x80 --preset wan-14b --sessions 4 --fps 8 --slo-ms 2000".split())
    assert (status, err) == (0, "")
    assert out.startswith("note    plans for 4 x GPU of 80 GB")
    assert "\nok      placement of wan-14b for 4 sessions of 8 fps, 1 step, 2000 ms (estimated): " in out
    assert "can run streamgen" not in out


@pytest.mark.parametrize("module", ["streamgen.offline", "streamgen.bench.cli"])
def test_other_commands_are_handed_to_their_modules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    class Fake(ModuleType):
        @staticmethod
        def add_arguments(parser: Any) -> None:
            parser.add_argument("--level", type=int)

        @staticmethod
        def run(arguments: Any) -> int:
            return int(arguments.level)

    monkeypatch.setitem(sys.modules, module, Fake(module))
    command = {"streamgen.offline": "run", "streamgen.bench.cli": "bench"}[module]
    assert run(capsys, command, "--level", "1")[0] == 1


def test_a_missing_extra_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    status, _, err = run(capsys, "doctor")
    assert (status, err) == (1, "error: torch is missing; install it with: pip install 'streamgen[serve]'\n")
