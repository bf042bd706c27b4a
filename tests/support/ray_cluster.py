"""Two Ray nodes on this machine's loopback, as if they were two machines: python -m tests.support.ray_cluster FOLDER.

Prints `ADDRESS PID`: Ray's address, and the process of the second node, which may be killed with its descendants. Ends
everything at the end of its input.
"""

from __future__ import annotations

import os
import sys

# Before Ray is imported: it takes loopback for what it is, and speaks to nobody else.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

MEMORY = 100 * 1024 * 1024


def main(folder: str) -> None:
    node = {"num_cpus": 1, "object_store_memory": MEMORY, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": folder})
    try:
        second = cluster.add_node(**node)
        (raylet,) = second.all_processes["raylet"]
        print(cluster.address, raylet.process.pid, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
