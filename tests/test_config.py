from __future__ import annotations

from typing import Any

import pytest

from streamgen.config import Config
from streamgen.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"port": -1}, "--port"),
        ({"port": 65536}, "--port"),
        ({"max_sessions": 0}, "--max-sessions"),
        ({"token": ""}, "--token"),
        ({"threads": -1}, "--threads"),
        ({"connect_timeout_s": 0.0}, "--connect-timeout-s"),
        ({"job_timeout_s": -1.0}, "--job-timeout-s"),
        ({"ice_servers": ("stun:a", "example.org")}, "--ice-server"),
        ({"udp_ports": (80, 50000)}, "--udp-ports must be FIRST-LAST"),
        ({"udp_ports": (50001, 50000)}, "--udp-ports must be FIRST-LAST"),
        ({"udp_ports": (50000, 65536)}, "--udp-ports must be FIRST-LAST"),
        ({"max_queue": -1}, "--max-queue"),
        ({"max_jobs": -1}, "--max-jobs"),
        ({"max_upload_mb": 0}, "--max-upload-mb"),
        ({"keep_jobs_s": 0.0}, "--keep-jobs-s"),
        ({"devices": ("cpu", "tpu")}, "--devices takes cpu, N or cuda:N between commas, not 'tpu'"),
        ({"devices": ("",)}, "--devices takes .* not ''"),
        ({"devices": ("cuda",)}, "--devices takes .* not 'cuda'"),
        ({"devices": ("cuda:01",)}, "--devices takes .* not 'cuda:01'"),
        ({"devices": ("cuda:1", "cpu", "cuda:1")}, "--devices has cuda:1 twice"),
        ({"devices": ("cpu", "cpu"), "blocks": (3, 2, 1)}, "--blocks is a number for each of --devices"),
        ({"devices": ("cpu", "cpu", "cpu"), "blocks": (3, 0, 3)}, "--blocks .* above 0 between first and last"),
        ({"blocks": (6,)}, "--blocks is a number for each of --devices"),
        ({"devices": ("cuda:1", "cuda:0"), "device": "cpu"}, "--devices and --device exclude each other"),
        ({"udp_ports": (50000, 50003), "max_sessions": 3, "max_queue": 2}, r"--udp-ports must be 5 \(--max-sessions"),
    ],
)
def test_what_cannot_work_is_named(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        Config(**settings)


def test_defaults_work() -> None:
    assert Config().preset == "tiny"


def test_a_cpu_may_be_several_devices() -> None:
    assert Config(devices=("cpu", "cpu", "cuda:0")).devices == ("cpu", "cpu", "cuda:0")


def test_a_port_for_every_session_is_enough() -> None:
    assert Config(udp_ports=(50000, 50003), max_sessions=3, max_queue=1).udp_ports == (50000, 50003)
