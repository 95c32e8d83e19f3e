"""MLflow, an optional extra: where MLFLOW_TRACKING_URI is set, a training's recipe, figures and guards go there too.

metrics.jsonl is the record: what MLflow lacks (the report of an epoch after which a worker was killed, all that followed when the server
went away) stands there. Only rank 0 of a training has a client; `mlflow-skinny` is enough.
"""

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibray.config import first_line, short_hash, to_json
from vibray.storage import objects

BATCH = 100
"""Parameters that MLflow takes in one request."""

FILE = "mlflow.json"
"""In the run folder: the MLflow run, so that a training that goes on goes on there too."""

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would report its use to its makers, from a plant's network
    # a server that is not there would hold a training up for four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow's own variables, where the environment does not set them."""


@dataclass(frozen=True)
class Tracking:
    """Where to: read from the environment of the driver, used on a worker. Credentials stay in the environment (MLFLOW_TRACKING_...)."""

    uri: str
    experiment: str

    @classmethod
    def from_environment(cls) -> "Tracking | None":
        """None where MLFLOW_TRACKING_URI is not set. A SQLite file's relative path is the driver's: a worker has another folder."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return None
        if uri.startswith("sqlite:///"):
            uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
        return cls(uri, os.environ.get("MLFLOW_EXPERIMENT_NAME", "vibray"))


class Tracker:
    """One training's MLflow run; without a client it does nothing.

    An error of MLflow is told once and ends the tracking, never the training.
    """

    def __init__(self, tell: Callable[[str], None], client: Any = None, run_id: str = ""):
        self.tell, self.client, self.run_id = tell, client, run_id

    def epoch(self, stage: str, epoch: int, figures: Mapping[str, Any]) -> None:
        """The figures of an epoch as `<stage>/<name>`."""
        self._figures(stage, {name: value for name, value in figures.items() if isinstance(value, int | float)}, epoch)

    def result(self, line: Mapping[str, Any]) -> None:
        """The last lines of metrics.jsonl: the guards' values, or a classifier's figures on its validation records."""
        guards = line.get("guards")
        if guards is None:
            self.epoch(line["stage"], 0, line)
            return
        self._figures("guards", {guard["name"].replace(" ", "_"): guard["value"] for guard in guards}, 0)
        tripped = ", ".join(guard["name"] for guard in guards if not guard["passed"])
        self._call("set_tag", "guards", f"tripped: {tripped}" if tripped else "held")

    def start(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Says what the run is. The same again changes nothing."""
        if self.client is None:
            return
        from mlflow.entities import Param, RunTag

        pairs = [Param(name, value) for name, value in params.items()]
        for at in range(0, len(pairs), BATCH):
            self._call("log_batch", params=pairs[at : at + BATCH])
        self._call("log_batch", tags=[RunTag(name, value) for name, value in tags.items()])
        self._call("update_run", "RUNNING")

    def end(self, status: str) -> None:
        self._call("set_terminated", status)

    def _figures(self, stage: str, figures: Mapping[str, float | int], step: int) -> None:
        if self.client is None:
            return
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        self._call("log_batch", metrics=[Metric(f"{stage}/{name}", float(value), now_ms, step) for name, value in figures.items()])

    def _call(self, name: str, *values: Any, **named: Any) -> None:
        if self.client is None:
            return
        try:
            getattr(self.client, name)(self.run_id, *values, **named)
        except Exception as error:  # whatever a server or a database raises
            self.client = None
            self.tell(f"warning: MLflow is told nothing more ({_without_secrets(error)}); metrics.jsonl has every figure")


@contextlib.contextmanager
def tracked(
    tracking: Tracking | None, run_uri: str, recipe: Any, environment: Mapping[str, str], tell: Callable[[str], None]
) -> Iterator[Tracker]:
    """An MLflow run for the time of a training: its end says whether the training finished or failed.

    Its parameters are the recipe's fields, its tags the run's URI, the recipe's hash and the versions. Nothing where `tracking` is None or
    mlflow is not installed, which is told.
    """
    tracker = Tracker(tell)
    if tracking is not None and importlib.util.find_spec("mlflow") is None:
        tell("warning: MLFLOW_TRACKING_URI is set but mlflow is not installed: pip install -e '.[mlflow]'")
    elif tracking is not None:
        tracker = _opened(tracking, run_uri, tell)
        tags = {"vibray.run": run_uri, "vibray.recipe": short_hash(recipe)}
        tracker.start(dict(_flat(to_json(recipe))), tags | {f"version.{name}": value for name, value in environment.items()})
    try:
        yield tracker
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")


def _opened(tracking: Tracking, run_uri: str, tell: Callable[[str], None]) -> Tracker:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    file = objects.join(run_uri, FILE)
    try:
        client: Any = MlflowClient(tracking_uri=tracking.uri)
        found = client.get_experiment_by_name(tracking.experiment)
        experiment = client.create_experiment(tracking.experiment) if found is None else found.experiment_id
        known = objects.read_json(file) if objects.exists(file) else {}
        if known.get("experiment_id") == experiment and known.get("tracking_uri") == shown(tracking.uri):
            return Tracker(tell, client, known["run_id"])
        run = client.create_run(experiment, run_name=objects.last_segment(run_uri))
    except Exception as error:  # whatever a server or a database raises
        tell(f"warning: MLflow is told nothing ({_without_secrets(error)}); metrics.jsonl has every figure")
        return Tracker(tell)
    objects.write_json(file, {"run_id": run.info.run_id, "experiment_id": experiment, "tracking_uri": shown(tracking.uri)})
    return Tracker(tell, client, run.info.run_id)


def shown(uri: str) -> str:
    """The URI without a name and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """`optim.epochs` -> "10", for each field at any depth; lists as they are."""
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, str(values)


def _without_secrets(error: BaseException) -> str:
    """What went wrong, without the names and passwords of addresses in it."""
    return re.sub(r"//[^/@\s]+@", "//", first_line(error))[:200]
