"""What is found out before any work: versions and reach, in one line."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from vibray.config import versions
from vibray.pipeline import session
from vibray.pipeline.ending import AGAIN, ClusterAway, ClusterError
from vibray.pipeline.session import NodeFacts, compare_nodes
from vibray.pipeline.workers import Board

ROOT = Path(__file__).parents[2]
HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}


def test_nodes_that_run_the_same_and_reach_everything_pass():
    compare_nodes(HERE, [NodeFacts("10.0.0.1", HERE, ""), NodeFacts("10.0.0.2", dict(HERE), "")])


def test_a_node_of_another_version_is_named_in_one_line():
    other = NodeFacts("10.0.0.2", {**HERE, "torch": "2.12.0"}, "")
    with pytest.raises(ClusterError) as error:
        compare_nodes(HERE, [NodeFacts("10.0.0.1", HERE, ""), other])
    assert "10.0.0.2" in str(error.value)
    assert "torch 2.12.0 (driver: 2.13.0)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_a_node_cannot_reach_is_named_in_one_line(tmp_path):
    facts = session._node_facts("10.0.0.3", (str(tmp_path / "runs" / "plan.json"),))
    with pytest.raises(ClusterError, match=r"10\.0\.0\.3 cannot reach .*plan\.json.*s3://"):
        compare_nodes(versions(), [facts])


def test_every_node_of_this_ray_reaches_what_exists_and_not_what_does_not(local_ray, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    session.check_nodes([str(tmp_path / "plan.json")])
    with pytest.raises(ClusterError, match="cannot reach"):
        session.check_nodes([str(tmp_path / "missing.json")])


def test_what_an_autoscaler_may_add_counts(local_ray, monkeypatch):
    assert (session.num_cpus(), session.num_gpus()) == (2, 0)
    monkeypatch.setenv("VIBRAY_MAX_CPUS", "160")
    monkeypatch.setenv("VIBRAY_MAX_GPUS", "4")
    assert (session.num_cpus(), session.num_gpus()) == (160, 4)
    monkeypatch.setenv("VIBRAY_MAX_CPUS", "1")  # less than is there
    monkeypatch.setenv("VIBRAY_MAX_GPUS", "four")
    assert session.num_cpus() == 2
    with pytest.raises(ClusterError, match="VIBRAY_MAX_GPUS=four: write a number"):
        session.num_gpus()


def test_versions_are_what_is_installed():
    import ray
    import torch

    assert versions()["ray"] == ray.__version__
    assert torch.__version__.startswith(versions()["torch"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_an_address_where_nothing_listens_is_given_up(monkeypatch):
    monkeypatch.setattr(session, "LISTENS_S", 0.2)
    begun = time.monotonic()
    with pytest.raises(ClusterAway, match=r"nothing answers at RAY_ADDRESS=127\.0\.0\.1:"):
        session._await(f"127.0.0.1:{free_port()}")
    assert time.monotonic() - begun < 10
    with socket.create_server(("127.0.0.1", 0)) as listening:
        session._await(f"127.0.0.1:{listening.getsockname()[1]}")
    session._await("auto")  # Ray finds out by itself


@pytest.mark.slow
def test_a_job_ends_within_a_minute_where_no_cluster_answers(tmp_path):
    command = [sys.executable, "jobs/synthesize.py", "--output", str(tmp_path / "raw"), "--labels", str(tmp_path / "labels.jsonl")]
    address = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == AGAIN
    (line,) = done.stderr.splitlines()
    assert address in line and "the same command again" in line


def test_settings_of_ray_data_are_put_back(local_ray):
    import ray

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.print_on_execution_start, context.raise_original_map_exception
    with session.quiet_data():
        assert context.raise_original_map_exception
        assert not context.enable_progress_bars
    assert (context.enable_progress_bars, context.print_on_execution_start, context.raise_original_map_exception) == before


def test_nodes_that_do_not_come_end_the_wait(local_ray, monkeypatch):
    monkeypatch.setenv("VIBRAY_MAX_GPUS", "2")
    monkeypatch.setenv("VIBRAY_WAIT_MINUTES", "0.02")
    monkeypatch.setattr(session, "LINE_S", 0.5)
    said = []
    monkeypatch.setattr(session.log, "info", lambda text, *words: said.append(text % words))
    with pytest.raises(ClusterAway, match=r"waited 0.02 minutes .* for 2 GPUs of nodes that the autoscaler may bring, 0 are there"):
        session.await_room("GPU", 2)
    assert said and said[0].startswith("waiting for 2 GPUs of nodes")
    session.await_room("CPU", 2)  # they are there


@pytest.mark.slow
def test_a_node_that_comes_is_waited_for():
    """A cluster of its own, whose first node with a core comes after three seconds."""
    done = subprocess.run([sys.executable, "-m", "tests.pipeline.test_session"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "came" in done.stdout


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False)
    waiting = threading.Thread(target=session.await_room, args=("CPU", 1))  # nodes are added from the main thread alone
    waiting.start()
    time.sleep(3)
    assert waiting.is_alive()
    cluster.add_node(num_cpus=1)
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    print("came", ray.cluster_resources()["CPU"])
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()


def test_an_actor_beside_the_driver_is_there_again_after_its_process_is_lost(local_ray):
    board = session.beside_driver(Board)
    ray.get(board.fail.remote("forgotten with the process"))
    ray.kill(board, no_restart=False)
    end = time.monotonic() + 120
    while ray.get(board.failure.remote()) is not None:  # whoever asks meanwhile waits, or is answered by the one that goes
        assert time.monotonic() < end
        time.sleep(0.1)
    ray.kill(board)
