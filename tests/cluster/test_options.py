from __future__ import annotations

import argparse

import pytest

from streamgen.cluster import options
from streamgen.cluster.options import Plan
from streamgen.errors import ConfigError, FleetError


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


HEAD, PLAIN, GPUS = {"memory": 1e9}, {"CPU": 8.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("given", "device", "machines", "size"),
    [
        ({}, "auto", [HEAD, PLAIN, PLAIN], (2, 0.0)),
        ({}, "auto", [HEAD, PLAIN, GPUS, GPUS], (8, 1.0)),
        ({}, "cpu", [HEAD, PLAIN, GPUS], (2, 0.0)),
        ({"gpus": 2.0}, "cuda", [GPUS], (2, 2.0)),
        ({"gpus": 0.5}, "auto", [GPUS], (8, 0.5)),
        ({"cpus": 12.0}, "auto", [PLAIN, GPUS], (4, 1.0)),
        ({"replicas": 3}, "auto", [HEAD], (3, 0.0)),
        ({"replicas": 3, "gpus": 1.0}, "auto", [HEAD], (3, 1.0)),
    ],
)
def test_a_node_for_each_gpu_or_machine(
    given: dict[str, float], device: str, machines: list[dict[str, float]], size: tuple[int, float]
) -> None:
    assert Plan("auto", **given).size(device, machines) == size  # type: ignore[arg-type]


def test_a_fleet_grows_by_itself_and_shrinks_when_it_is_told_to() -> None:
    assert Plan("auto").size("auto", [PLAIN], known=3) == (3, 0.0)
    assert Plan("auto").size("auto", [], known=3) == (3, 0.0)
    assert Plan("auto").size("auto", [PLAIN] * 4, known=3) == (4, 0.0)
    assert Plan("auto", 2).size("auto", [PLAIN] * 4, known=3) == (2, 0.0)


def test_where_no_machine_has_room_for_a_node_that_is_said() -> None:
    with pytest.raises(FleetError, match="no machine of the cluster has 1 CPUs and 1 GPUs for a node"):
        Plan("auto", gpus=1.0).size("auto", [HEAD, PLAIN])
