from __future__ import annotations

import argparse

import pytest

from streamgen.cluster import options
from streamgen.cluster.options import Plan
from streamgen.errors import ConfigError


def plan(text: str) -> Plan | None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.of(parser.parse_args(text.split()))


def test_without_an_address_there_is_no_fleet() -> None:
    assert plan("") is None


def test_every_option() -> None:
    assert plan("--cluster auto") == Plan("auto")
    text = "--cluster 10.0.0.1:6379 --replicas 3 --replica-cpus 4 --replica-gpus 0.5 --node-ports 9000-9010 --relay"
    assert plan(f"{text} --keep-nodes") == Plan("10.0.0.1:6379", 3, 4.0, 0.5, (9000, 9010), True, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("--replicas 2", "--replicas means something with --cluster only"),
        ("--replica-gpus 0", "--replica-gpus means"),
        ("--keep-nodes", "--keep-nodes means"),
        ("--cluster here", "HOST:PORT, or auto, not 'here'"),
        ("--cluster ray://10.0.0.1:10001", "HOST:PORT"),
        ("--cluster :6379", "HOST:PORT"),
        ("--cluster auto --replicas 0", "--replicas must be"),
        ("--cluster auto --replica-cpus -1", "must not be negative"),
        ("--cluster auto --replica-gpus -1", "must not be negative"),
        ("--cluster auto --node-ports 80-90", "--node-ports must be"),
        ("--cluster auto --node-ports 9010-9000", "--node-ports must be"),
    ],
)
def test_what_cannot_be_is_told(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plan(text)
