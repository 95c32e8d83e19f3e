"""Start or join Ray, and find out before any work what would otherwise fail in the middle of it.

`RAY_ADDRESS` (set by `ray job submit`) names the cluster; without it a Ray of its own starts on this machine and ends with the job.
"""

import contextlib
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.data
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vibray.config import first_line, versions
from vibray.pipeline.ending import ClusterAway, ClusterError, interruptible
from vibray.pipeline.logs import LINE_S
from vibray.storage import objects

log = logging.getLogger(__name__)

WAIT_MINUTES = 15.0
"""For which nodes that an autoscaler may bring are waited for, unless VIBRAY_WAIT_MINUTES says otherwise."""

LISTENS_S = 30.0
"""For which a cluster that is named is given time to answer."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node says of itself: its address, its versions, and why it cannot reach a URI ("" where it can)."""

    address: str
    versions: dict[str, str]
    unreachable: str


@contextlib.contextmanager
def started(num_cpus: int | None = None, needed: bool = True) -> Iterator[None]:
    """Ray for the time of a job: joined where RAY_ADDRESS says so, else started here and shut down at the end; not at all unless `needed`.

    Raises ClusterError where the cluster runs other versions than this process, ClusterAway where nothing answers.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # one thread a worker, a worker a core: spinning threads cost a factor of ten
    # Ray's C++ core reports every actor pool of Ray Data on the terminal as an error (ray-project/ray#53727)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not needed or ray.is_initialized():  # a dry run needs none; a test or a notebook brought its own
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _await(address)
    # workers report through their results; what they print (Ray Train's internals, mostly) stays in Ray's own logs
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _silenced():
            # a Ray port is remote code execution: unless RAY_AUTH_MODE says otherwise, Ray makes a token for it in ~/.ray
            local = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
            ray.init(**({"address": address} if address else local), **quiet)
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {address or 'this machine'}: {first_line(error)}") from error
    except Exception as error:  # of no class of its own: "The current node timed out during startup", where a machine is too busy
        if type(error) is not Exception:
            raise
        raise ClusterAway(f"Ray does not start on {address or 'this machine'}: {first_line(error)}") from error
    try:
        # ray.init put its own handler in place, which waits half a minute for tasks
        with quiet_data(), interruptible():
            yield
    finally:
        ray.shutdown()


def _await(address: str) -> None:
    """Raises ClusterAway where nothing listens at an address: Ray itself would try for minutes, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # auto, local: Ray finds out by itself
        return
    give_up = time.monotonic() + LISTENS_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENS_S / 3).close()
            return
        except OverflowError as error:
            raise ClusterError(f"RAY_ADDRESS={address}: there is no such port") from error
        except OSError as error:
            if time.monotonic() > give_up:
                raise ClusterAway(f"nothing answers at RAY_ADDRESS={address} ({first_line(error)}): is the cluster there?") from error
        time.sleep(1.0)


def beside_driver(actor: type) -> Any:
    """A new actor of a class without arguments, which ends with the job and not before: on the driver's own node, whose loss is the job's,
    and started anew where its process is lost. What it knew is then forgotten, a call that was under way is made again.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(actor).remote()


@contextlib.contextmanager
def quiet_data() -> Iterator[None]:
    """Ray Data keeps to its own log file, and hands over what a task raised; afterwards its settings are what they were."""
    names = ("ray.data", "ray.train")
    consoles = [handler for handler in logging.getLogger("ray.data").handlers if handler.get_name() == "console"]
    levels = [(own, own.level) for own in (*map(logging.getLogger, names), *consoles)]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)  # what a task raised is told once, at the end
    context = ray.data.DataContext.get_current()
    # without the last all that arrives is "UDF failed to process a data block": the cause of a pickled exception is lost
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "raise_original_map_exception": True}
    before = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        with warnings.catch_warnings():
            # one chain is one input, whose parts come one after another: the tasks behind it are as many as there are cores all the same
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks for")
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for own, level in levels:
            own.setLevel(level)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keeps off the terminal what Ray's C++ core says of itself while it starts; an error is raised all the same."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_nodes(uris: Sequence[str]) -> None:
    """One small task a node: the same versions everywhere, and every URI within reach. Waits for the first node where there is none yet.

    Raises ClusterError with one line that names the node, and what `await_room` raises.
    """
    await_room("CPU", 1)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    probe = ray.remote(num_cpus=0.1, max_retries=1)(_node_facts)
    facts = ray.get(
        [
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                node["NodeManagerAddress"], tuple(uris)
            )
            for node in nodes
        ]
    )
    compare_nodes(versions(), facts)


def compare_nodes(driver: dict[str, str], nodes: Sequence[NodeFacts]) -> None:
    """Raises ClusterError for the first node that differs from the driver or cannot reach a URI."""
    for node in nodes:
        differing = [
            f"{name} {node.versions.get(name)} (driver: {here})" for name, here in driver.items() if node.versions.get(name) != here
        ]
        if differing:
            raise ClusterError(
                f"node {node.address} runs {', '.join(differing)}: install the same versions everywhere (cluster/Dockerfile pins them)"
            )
        if node.unreachable:
            raise ClusterError(f"node {node.address} cannot reach {node.unreachable}")


def num_cpus() -> int:
    """CPU cores of the cluster, at least 1; those included that VIBRAY_MAX_CPUS says an autoscaler may add."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)), _may_grow_to("VIBRAY_MAX_CPUS"))


def num_gpus() -> int:
    """GPUs of the cluster; those included that VIBRAY_MAX_GPUS says an autoscaler may add."""
    return max(int(ray.cluster_resources().get("GPU", 0)), _may_grow_to("VIBRAY_MAX_GPUS"))


def cores_beside_a_gpu() -> int:
    """Whole cores for a process that holds a GPU: half of those that its node has for each; the others read. 0 where there is one alone."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return min((int(own.get("CPU", 0) / own["GPU"]) // 2 for own in nodes), default=1)


def num_groups(num_workers: int) -> int:
    """How many groups of so many workers, on a GPU each where there are GPUs, the cluster carries at a time.

    Raises ClusterError where it does not carry one: Ray would wait for what never comes.
    """
    kind, there = ("GPUs", num_gpus()) if num_gpus() else ("cores", num_cpus())
    if not 1 <= num_workers <= there:
        raise ClusterError(f"--num-workers {num_workers}: the cluster has {there} {kind}; give 1 to {there}")
    return there // num_workers


def await_room(kind: Literal["CPU", "GPU"], count: int) -> None:
    """Waits until the cluster has so many cores or GPUs, asking an autoscaler for them; says every quarter of a minute what it waits for.

    Raises ClusterAway where they have not come after VIBRAY_WAIT_MINUTES.
    """
    if ray.cluster_resources().get(kind, 0) >= count:
        return
    minutes, begun = _number("VIBRAY_WAIT_MINUTES", WAIT_MINUTES), time.monotonic()
    wanted = placement_group([{kind: 1.0}] * count)  # what an autoscaler sees
    try:
        while not wanted.wait(min(LINE_S, 60 * minutes)):
            waited = time.monotonic() - begun
            there = ray.cluster_resources().get(kind, 0)
            words = f"{count} {kind}s of nodes that the autoscaler may bring, {there:g} are there"
            if waited >= 60 * minutes:
                raise ClusterAway(f"waited {minutes:g} minutes (VIBRAY_WAIT_MINUTES) for {words}")
            log.info("waiting for %s; %.0f s so far, at most %g minutes (VIBRAY_WAIT_MINUTES)", words, waited, minutes)
    finally:
        remove_placement_group(wanted)


def unordered(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """What `function` returns for each tuple of arguments, as the tasks end; a few more are in flight than there are cores."""
    task = ray.remote(num_cpus=1, max_retries=3)(function)
    flying, waiting = [], iter(arguments)
    while True:
        while len(flying) < num_cpus() + 2 and (own := next(waiting, None)):
            flying.append(task.remote(*own))
        if not flying:
            return
        ready, flying = ray.wait(flying)
        yield from ray.get(ready)


def _may_grow_to(variable: str) -> int:
    """What an autoscaler may come to is known to it alone: Ray tells a job of nodes that are there, and none asks for a GPU that is not."""
    return int(_number(variable, 0.0))


def _number(variable: str, default: float) -> float:
    said = os.environ.get(variable, "")
    try:
        value = float(said) if said else default
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ClusterError(f"{variable}={said}: write a number, 0 or more")
    return value


def _node_facts(address: str, uris: tuple[str, ...]) -> NodeFacts:
    unreachable = ""
    for uri in uris:
        try:
            if not objects.exists(uri):
                unreachable = f"{uri}: not there as this node sees it; give an s3:// URI or a folder that every node mounts"
        except Exception as error:  # the text goes to the driver: an exception class might not unpickle there
            unreachable = f"{uri}: {first_line(error)}"
        if unreachable:
            break
    return NodeFacts(address, versions(), unreachable)
