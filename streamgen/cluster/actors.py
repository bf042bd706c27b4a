"""The nodes on Ray: an actor for each, in a bundle of a placement group that spreads over the machines.

Actors and groups are detached: they outlive the gateway that made them, and the next one with the same settings takes
them over, with another group for further nodes where it is to have more. Ray starts an actor anew when it or its
machine is lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from streamgen import __version__
from streamgen.cluster.host import STOP_S, Host
from streamgen.cluster.keeper import NodeLostError
from streamgen.cluster.messages import Order, Settings, Told
from streamgen.cluster.options import Plan
from streamgen.errors import FleetError

logger = logging.getLogger(__name__)

AGAIN_S = 1.0
AGAIN_FAILED_S = 10.0
"""After its process has ended a node is started anew after this time, or that, where it never was ready (s)."""

PUBLIC_URL = "STREAMGEN_NODE_URL"
"""Set in the environment of Ray on a machine: where clients reach its node, with {port} in the place of the port."""


class NodeActor:
    """On the node's machine: its process, and nothing else. Ends with it, for Ray to start another."""

    def __init__(self, settings: Settings, name: str) -> None:
        address = ray.util.get_node_ip_address()
        self._host = Host(settings, name, address, os.environ.get(PUBLIC_URL, ""))
        self._stopping = False
        threading.Thread(target=self._end_with_it, name="end", daemon=True).start()

    def told(self) -> Told:
        """See Host."""
        return self._host.told()

    def tell(self, order: Order) -> None:
        """See Host."""
        self._host.send(order)

    def stop(self) -> None:
        """Ends the process in order."""
        self._stopping = True
        self._host.stop()

    def _end_with_it(self) -> None:
        self._host.ended.wait()
        if not self._stopping:
            time.sleep(AGAIN_S if self._host.was_ready else AGAIN_FAILED_S)  # meanwhile the gateway is told why
            os._exit(1)


class RayNodes:
    """Implements keeper.Nodes. One per process, as Ray allows one connection."""

    def __init__(self, actors: dict[str, Any], groups: Sequence[Any]) -> None:
        self._actors = actors
        self._groups = groups

    @classmethod
    def open(cls, plan: Plan, settings: Settings) -> RayNodes:
        """Connects to Ray, and takes over the nodes of the same settings, or starts them.

        Raises FleetError. Nodes of the same preset with other settings are ended, and those that are too many.
        """
        _connect(plan.address, f"streamgen-{settings.config.preset}")
        with _explained():
            settings = replace(settings, config=replace(settings.config, host="", port=0))
            mark = _mark(settings, plan.cpus, plan.gpus)
            machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
            groups = _groups(mark)
            bundles = [(group, index) for group in groups for index in range(group.bundle_count)]
            replicas, gpus = plan.size(settings.config.device, machines, len(bundles))
            if replicas > len(bundles):
                groups.append(_group(mark, len(bundles), replicas - len(bundles), plan.cpus, gpus))
                bundles += [(groups[-1], index) for index in range(replicas - len(bundles))]
            names = [f"n{number}" for number in range(replicas)]
            _end_others([f"{mark}-{name}" for name in names], mark)
            actors = {
                name: _actor(settings, name, mark, group, index)
                for name, (group, index) in zip(names, bundles, strict=False)
            }
        return cls(actors, groups)

    @property
    def names(self) -> Sequence[str]:
        """Of all nodes."""
        return tuple(self._actors)

    async def ask(self, name: str) -> Told:
        """Raises NodeLostError."""
        try:
            told: Told = await self._actors[name].told.remote()
        except RayError as error:
            raise NodeLostError(_one_line(error)) from None
        return told

    async def tell(self, name: str, order: Order) -> None:
        """Raises NodeLostError."""
        try:
            await self._actors[name].tell.remote(order)
        except RayError as error:
            raise NodeLostError(_one_line(error)) from None

    @property
    def placed(self) -> bool:
        """Whether Ray has found a place for every node."""
        return all(group.wait(0) for group in self._groups)

    def stop(self) -> None:
        """Ends all nodes, in order where they can be reached; then nothing is left of them in Ray."""
        _end(list(self._actors.values()))
        for group in self._groups:
            remove_placement_group(group)

    def close(self) -> None:
        """Gives the connection to Ray back."""
        ray.shutdown()


def _connect(address: str, namespace: str) -> None:
    """Raises FleetError."""
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FleetError(f"Ray at {address} cannot be used: {_one_line(error)}") from None


def _mark(*settings: object) -> str:
    """Tells fleets of different settings, and versions, apart."""
    return hashlib.sha256(repr((__version__, *settings)).encode()).hexdigest()[:8]


def _end_others(wanted: Sequence[str], mark: str) -> None:
    """Actors that are not wanted any more, and the groups of other settings."""
    others = []
    for name in ray.util.list_named_actors():
        if name not in wanted:
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                others.append(ray.get_actor(name))
    _end(others)
    for name in _group_names():
        if not name.startswith(mark):
            with contextlib.suppress(ValueError):  # another namespace's
                remove_placement_group(ray.util.get_placement_group(name))
    if others:
        logger.warning("%d nodes that are not wanted any more were ended", len(others))


def _end(actors: Sequence[Any]) -> None:
    """In order, as far as they can be reached."""
    farewells = [actor.stop.remote() for actor in actors]
    if farewells:
        ray.wait(farewells, num_returns=len(farewells), timeout=STOP_S)
    for actor in actors:
        ray.kill(actor)


def _group_names() -> list[str]:
    return sorted(group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED")


def _groups(mark: str) -> list[Any]:
    """Those of these settings, in the order of their nodes."""
    return [ray.util.get_placement_group(name) for name in _group_names() if name.startswith(mark)]


def _group(mark: str, first: int, count: int, cpus: float, gpus: float) -> Any:
    """A new one, for so many nodes from the `first` on."""
    bundle = {kind: amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount > 0} or {"CPU": 0.001}
    return placement_group([bundle] * count, strategy="SPREAD", name=f"{mark}-{first:04}", lifetime="detached")


def _actor(settings: Settings, name: str, mark: str, group: Any, index: int) -> Any:
    """The one of this name, in the group's bundle of this index."""
    bundle = group.bundle_specs[index]
    remote = ray.remote(NodeActor).options(
        name=f"{mark}-{name}",
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        num_cpus=bundle.get("CPU", 0.0),
        num_gpus=bundle.get("GPU", 0.0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    )
    return remote.remote(settings, name)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What Ray cannot do in here is a FleetError."""
    try:
        yield
    except RayError as error:
        raise FleetError(f"Ray cannot place the nodes: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].partition(" The task may")[0].rstrip(".") if lines else type(error).__name__
