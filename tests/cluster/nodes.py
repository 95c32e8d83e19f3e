"""A Ray cluster of several nodes on loopback, each node a process of its own that was started by `ray start --block`, as in a pod."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")

PATIENCE_S = 300
"""For a node to answer: seconds where nothing else runs, minutes on a busy machine."""


def free_port() -> int:
    """A port outside of the range of Ray's workers."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if not 10002 <= port <= 19999:
            return port


class Cluster:
    """Nodes with token authentication on. `stop` ends the processes that were started here, and only those."""

    def __init__(self, folder: Path, **environment: str):
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        mine = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        mine["RAY_raylet_start_wait_time_s"] = str(PATIENCE_S)  # `ray start` gives up after half a minute
        self.environment = {**os.environ, **mine, "OMP_NUM_THREADS": "1", **environment}
        self.environment.pop("RAY_ADDRESS", None)
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.metrics_ports: list[int] = []
        self.nodes: list[subprocess.Popen] = []

    def start_head(self, num_cpus: int) -> None:
        """The head; its dashboard answers when this returns."""
        head = self._start("--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", f"--num-cpus={num_cpus}")
        for _ in range(PATIENCE_S):
            if head.poll() is not None or self.answers("/api/version"):
                break
            time.sleep(1)
        assert head.poll() is None, self.log(0)[-2000:]

    def start_worker(self, num_cpus: int, **environment: str) -> subprocess.Popen:
        """One more node; it has joined when this returns."""
        worker = self._start(f"--address=127.0.0.1:{self.port}", f"--num-cpus={num_cpus}", **environment)
        number = len(self.nodes) - 1
        for _ in range(2 * PATIENCE_S):
            if worker.poll() is not None or "Ray runtime started" in self.log(number):
                break
            time.sleep(0.5)
        assert worker.poll() is None, self.log(number)[-2000:]
        return worker

    def _start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        number = len(self.nodes)
        folder = self.folder / str(number)  # short: the path of a socket has at most 107 characters
        folder.mkdir()
        self.metrics_ports.append(free_port())
        agents = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
        agents += [f"--metrics-export-port={self.metrics_ports[-1]}", f"--runtime-env-agent-port={free_port()}"]
        command = [RAY, "start", "--block", "--object-store-memory=200000000", f"--temp-dir={folder}", *agents, *arguments]
        with (self.folder / f"{number}.log").open("w") as log:
            all_of_it = {**self.environment, **environment}
            self.nodes.append(subprocess.Popen(command, env=all_of_it, stdout=log, stderr=log, start_new_session=True))
        return self.nodes[-1]

    def log(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    def answers(self, path: str, token: bool = True) -> bool:
        """Whether the dashboard lets us in."""
        try:
            self.get(path, token)
        except urllib.error.HTTPError as error:
            return error.code not in (401, 403)
        except OSError:
            return False
        return True

    def get(self, path: str, token: bool = True) -> str:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers), timeout=5) as answer:
            return answer.read().decode()

    def metrics(self, number: int) -> dict[str, float]:
        """vibray's metrics that a node exports: by name{verb,stage}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_ports[number]}/metrics", timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_vibray_")]
        found: dict[str, float] = {}
        for line in lines:
            name, rest = line.split("{", 1)
            labels, value = rest.rsplit("} ", 1)
            tags = dict(pair.split("=", 1) for pair in labels.split(","))
            key = "/".join([name, *(tags[tag].strip('"') for tag in ("verb", "stage") if tag in tags)])
            found[key] = found.get(key, 0.0) + float(value)
        return found

    def submit(self, *words: str, submission_id: str | None = None) -> subprocess.CompletedProcess:
        """`ray job submit` as the README shows it."""
        command = [RAY, "job", "submit", "--address", self.address, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml"]
        command += [] if submission_id is None else ["--submission-id", submission_id]
        for _ in range(10):
            done = subprocess.run(
                [*command, "--", *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400, check=False
            )
            if "No available agent" not in done.stderr:  # the dashboard answers some seconds before the node's agent is there
                break
            time.sleep(2)
        return done

    def stop(self) -> None:
        for node in reversed(self.nodes):
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
