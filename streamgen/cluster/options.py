"""How a fleet is to be placed: the options of `streamgen serve --cluster`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamgen.choices import port_range
from streamgen.errors import ConfigError, FleetError

FLAGS = ("replicas", "replica_cpus", "replica_gpus", "node_ports", "relay", "keep_nodes")


@dataclass(frozen=True, slots=True)
class Plan:
    """Raises ConfigError where it cannot work."""

    address: str
    """Of Ray: host:port, or "auto"."""
    replicas: int | None = None
    """Nodes; None: one for each GPU of the cluster, or for each machine where it has none."""
    cpus: float = 1.0
    """That Ray sets aside for each."""
    gpus: float | None = None
    """The same; None: 1 where the cluster has GPUs and the model may run on them."""
    ports: tuple[int, int] | None = None
    """First and last TCP port for the nodes' HTTP; any free one where None."""
    relays: bool = False
    """Whether all requests are passed on to the nodes, and nobody is redirected."""
    keeps_nodes: bool = False
    """Whether the nodes go on when the gateway is stopped, for another that takes them over."""

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if self.address != "auto" and not (colon and host and port.isdecimal() and "://" not in self.address):
            raise ConfigError(f"--cluster takes Ray's HOST:PORT, or auto, not {self.address!r}")
        if self.replicas is not None and not 1 <= self.replicas <= 1024:
            raise ConfigError("--replicas must be from 1 to 1024")
        if self.cpus < 0 or (self.gpus is not None and self.gpus < 0):
            raise ConfigError("--replica-cpus and --replica-gpus must not be negative")
        if self.ports is not None and not 1024 <= self.ports[0] <= self.ports[1] <= 65535:
            raise ConfigError("--node-ports must be FIRST-LAST, from 1024 to 65535")

    def size(self, device: str, machines: Sequence[Mapping[str, float]], known: int = 0) -> tuple[int, float]:
        """Nodes, and GPUs for each, on machines with these resources ("CPU", "GPU").

        Where nothing else is asked for there are no fewer than those that are `known` already: a machine may be away.
        Raises FleetError where there is no room for any.
        """
        has_gpus = any(machine.get("GPU", 0.0) > 0 for machine in machines)
        gpus = self.gpus if self.gpus is not None else float(has_gpus and device != "cpu")
        if self.replicas is not None:
            return self.replicas, gpus
        fitting = [machine for machine in machines if machine.get("CPU", 0.0) >= self.cpus]
        replicas = sum(int(machine.get("GPU", 0.0) / gpus) if gpus > 0 else 1 for machine in fitting)
        if not max(replicas, known):
            raise FleetError(f"no machine of the cluster has {self.cpus:g} CPUs and {gpus:g} GPUs for a node")
        return max(replicas, known), gpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--cluster, and those that mean something only beside it."""
    group = parser.add_argument_group("a fleet of many machines, run by Ray (docs/cluster.md)")
    add = group.add_argument
    add(
        "--cluster",
        metavar="ADDRESS",
        help="run nodes on the machines of this Ray cluster (HOST:PORT, or auto), and here only their gateway",
    )
    add("--replicas", type=int, metavar="N", help="nodes (default: one for each GPU, or machine where there is none)")
    add("--replica-cpus", type=float, metavar="N", help="CPUs that Ray sets aside for each (default: 1)")
    add(
        "--replica-gpus",
        type=float,
        metavar="N",
        help="GPUs that Ray sets aside for each (default: 1, where it has any)",
    )
    add("--node-ports", type=port_range, metavar="FIRST-LAST", help="TCP ports for the nodes' HTTP (default: any)")
    add("--relay", action="store_true", help="pass all requests on to the nodes, for clients that cannot reach them")
    add("--keep-nodes", action="store_true", help="leave the nodes running at the end, for the next gateway")


def of(arguments: argparse.Namespace) -> Plan | None:
    """What was asked for; None where no fleet is. Raises ConfigError."""
    if arguments.cluster is None:
        for name in FLAGS:
            given = getattr(arguments, name)
            if given is not None and given is not False:
                raise ConfigError(f"--{name.replace('_', '-')} means something with --cluster only")
        return None
    return Plan(
        address=arguments.cluster,
        replicas=arguments.replicas,
        cpus=1.0 if arguments.replica_cpus is None else arguments.replica_cpus,
        gpus=arguments.replica_gpus,
        ports=arguments.node_ports,
        relays=arguments.relay,
        keeps_nodes=arguments.keep_nodes,
    )
