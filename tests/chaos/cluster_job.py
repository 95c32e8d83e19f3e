"""Three nodes on this machine, one of which is lost in the middle: `python -m tests.chaos.cluster_job RUN INPUT SCORES RATE LINES`."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from vibray.pipeline.jobs import ScoreJob
from vibray.pipeline.score import score

LOST_AFTER = 10
"""Markers that stand when the node goes."""


def main(run: str, source: str, scores: str, rate: str, lines: str) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    lost = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 3
    seen = []

    def lose() -> None:
        done = Path(scores, "_done")
        while not done.is_dir() or len(list(done.glob("*.json"))) < LOST_AFTER:
            time.sleep(0.02)
        cluster.remove_node(lost, allow_graceful=False)
        seen.append(len(list(done.glob("*.json"))))

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    score(ScoreJob(run, source, scores, sample_rate_hz=float(rate), lines_per_part=int(lines)))
    thread.join(60)
    until = time.monotonic() + 60
    while (alive := len([node for node in ray.nodes() if node["Alive"]])) == 3 and time.monotonic() < until:
        time.sleep(0.2)  # the job may end before Ray's health check has missed the node
    print(f"a node went when {seen[0]} parts were done; {alive} nodes are left")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
