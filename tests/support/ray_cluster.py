"""Ray nodes on this machine's loopback, as if they were machines: python -m tests.support.ray_cluster FOLDER.

Starts two. Prints `ADDRESS PID`: Ray's address, and the process of the second node, which may be killed with its
descendants; and another `ADDRESS PID` for each line of its input, for which it starts one more. Ends everything at the
end of its input.
"""

from __future__ import annotations

import os
import sys

# Before Ray is imported: it takes loopback for what it is, and speaks to nobody else.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

MEMORY = 100 * 1024 * 1024


def main(folder: str) -> None:
    settings = {
        "num_cpus": 1,
        "object_store_memory": MEMORY,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**settings, "temp_dir": folder})
    try:
        add(cluster, settings)
        for _ in sys.stdin:
            add(cluster, settings)
    finally:
        cluster.shutdown()


def add(cluster: Cluster, settings: dict[str, object]) -> None:
    (raylet,) = cluster.add_node(**settings).all_processes["raylet"]
    print(cluster.address, raylet.process.pid, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
