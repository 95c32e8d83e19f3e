"""A search on Ray Tune: trials from the study, asynchronous successive halving on epochs, one worker or several a trial.

Tune stops a trial by ending its process, which leaves behind what a nested training has started. So a trial is told to stop instead: the
scheduler leaves its decision on a board, the trial reads it at every rung and ends in order, its workers and their placement group too.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray import tune
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from vibray.compare.corpus import Corpus
from vibray.compare.study import SearchError, Study
from vibray.compare.trial import AtRung, Stopped, Trial, TrialPlan
from vibray.config import from_json, to_json
from vibray.fitting.jobs import CACHE_GB
from vibray.fitting.worker import Worker, alone_with
from vibray.pipeline import session
from vibray.recipes.kinds import AnyRecipe, Recipe
from vibray.storage import objects
from vibray.train.fit import Diverged
from vibray.train.guards import CollapsedModel
from vibray.train.reduce import World

MAX_FAILURES = 2
"""Times that a trial whose storage failed or whose process was lost is run again from its start."""

DECISION_S = 0.1
"""Between two looks at the board by the first worker of a group."""
FORGOTTEN_S = 120.0
"""After which a decision that does not come is one that a board, started anew, has forgotten: the trial goes on to its next rung."""

Finished = Callable[[dict[str, Any]], None]
"""Called in the driver with what was written of each trial that has ended."""


class StopBoard:
    """Where the scheduler leaves its decisions, and a group of workers the error that ended it."""

    def __init__(self) -> None:
        self.stops: dict[tuple[int, int], bool] = {}
        self.outcomes: dict[int, dict[str, Any]] = {}

    def decide(self, number: int, clock: int, stop: bool) -> None:
        self.stops[number, clock] = stop

    def decision(self, number: int, clock: int) -> bool | None:
        return self.stops.get((number, clock))

    def leave(self, number: int, outcome: dict[str, Any]) -> None:
        self.outcomes[number] = outcome

    def outcome(self, number: int) -> dict[str, Any] | None:
        return self.outcomes.get(number)


class Halving(AsyncHyperBandScheduler):
    """Tune's asynchronous successive halving, whose stops go to the board; it remembers the trials of earlier starts."""

    def __init__(self, board: Any, plan: TrialPlan, factor: int):
        grace = plan.rungs[0] if plan.rungs else plan.total
        super().__init__("clock", "value", "max", max_t=plan.total + 1, grace_period=grace, reduction_factor=factor)
        self.board = board

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "clock" in result and "number" in result:
            # the others are compared with trial 0, the recipe as it is: it runs to its end
            stop = super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP and result["number"] > 0
            ray.get(self.board.decide.remote(result["number"], result["clock"], stop))
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def remember(self, number: int, told: dict[str, float]) -> None:
        """Puts what a trial of an earlier start reported on the rungs."""
        past: Any = _Past(f"past-{number}")
        self.on_trial_add(None, past)  # type: ignore[arg-type]
        for clock, value in told.items():
            super().on_trial_result(None, past, {"clock": int(clock), "value": value})  # type: ignore[arg-type]
        self.on_trial_remove(None, past)


class _Past:
    def __init__(self, trial_id: str):
        self.trial_id = trial_id


class AskAndTell(Searcher):
    """The study as Tune sees it. Its state is the folder: nothing is pickled, nothing restored."""

    def __init__(self, study: Study, num_trials: int, max_concurrent: int, finished: Finished):
        super().__init__("value", "max")
        self.study, self.num_trials, self.most, self.finished = study, num_trials, max_concurrent, finished
        self.left = num_trials - len(study.finished)
        self.running: dict[str, tuple[int, Recipe]] = {}

    def suggest(self, trial_id: str) -> Any:
        if len(self.running) >= self.most:
            return None
        if self.left <= 0:
            return Searcher.FINISHED
        number, _, recipe = self.study.ask()
        self.left -= 1
        self.running[trial_id] = number, recipe
        return {"number": number, "recipe": to_json(recipe), "run_uri": self.study.folder.run_uri(recipe), "token": trial_id}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self.running:
            return
        number, recipe = self.running.pop(trial_id)
        told = (result or {}).get("outcome")
        if error or told is None:
            reason = f"lost {MAX_FAILURES + 1} times: its process died, or its storage failed; Ray's own logs say which"
            outcome: dict[str, Any] = {"state": "pruned", "cause": "lost", "reason": reason, "rungs": {}, "clock": 0}
            outcome |= {"folds": [], "seconds": {}}
        else:
            outcome = json.loads(told)
        self.finished(self.study.tell(number, recipe, outcome))

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.most = max_concurrent
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune moves the file that it asked for

    def __reduce__(self) -> Any:
        return Searcher, ()  # Tune keeps a pickle of what it was given: nothing of the study is in it

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is rebuilt from the files of its folder")


def run_trials(
    study: Study, plan: TrialPlan, corpus: Corpus, num_trials: int, num_workers: int, max_concurrent: int, factor: int, finished: Finished
) -> None:
    """Runs what is left of a study. Raises what writing to the folder raises; a trial that fails is told to the study."""
    board = session.beside_driver(StopBoard)
    scheduler = Halving(board, plan, factor)
    for number, values in study.finished.items():
        scheduler.remember(number, values["rungs"])
    use_gpu = session.num_gpus() > 0
    own: dict[str, float | int] = {"CPU": 1, "GPU": 1 if use_gpu else 0}
    if num_workers > 1:
        own = {"CPU": 0, "memory": 1 << 20}  # its workers take what they need; Tune refuses a trial that takes nothing
    _ = corpus.table.sensors, corpus.table.key_hash, corpus.table.histories  # derived once, not in every process
    shared = {"plan": plan, "board": board, "corpus": ray.put(corpus), "num_workers": num_workers, "use_gpu": use_gpu}
    function = tune.with_resources(tune.with_parameters(_trial, shared=shared), tune.PlacementGroupFactory([own]))
    with tempfile.TemporaryDirectory(prefix="vibray-tune-") as scratch, _settings(max_concurrent):
        tuner = tune.Tuner(
            function,
            tune_config=tune.TuneConfig(
                search_alg=AskAndTell(study, num_trials, max_concurrent, finished),
                scheduler=scheduler,
                num_samples=num_trials - len(study.finished),
                reuse_actors=num_workers == 1,  # the images that a process has made serve its next trial
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=scratch, verbose=0, failure_config=tune.FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        tuner.fit()
    if len(study.finished) < num_trials:
        raise SearchError(
            f"{num_trials - len(study.finished)} trials did not run: the same command again runs them; Ray's own logs say why"
        )


@contextmanager
def _settings(max_concurrent: int) -> Iterator[None]:
    """Tune without loggers, tables and files of its own beyond the least: the folder is the record."""
    wanted = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "100000", "RAY_AIR_NEW_OUTPUT": "0"}
    # with a searcher Tune starts processes one after another, ten seconds each; AskAndTell keeps the bound itself
    wanted["TUNE_MAX_PENDING_TRIALS_PG"] = str(max_concurrent)
    # with its own handler an interrupted search would look like one that has ended
    wanted["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    before = {name: os.environ.get(name) for name in wanted}
    levels = {name: logging.getLogger(name).level for name in ("ray.tune", "ray.air")}
    os.environ.update(wanted)
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


# ---------------------------------------------------------------- where a trial runs


def _trial(config: dict[str, Any], shared: dict[str, Any]) -> None:
    """What Tune runs: the trial itself, or a group of workers that does."""
    start = time.perf_counter()
    number, board = config["number"], shared["board"]

    def at_rung(clock: int, value: float) -> bool:
        tune.report({"number": number, "clock": clock, "value": value})
        return bool(ray.get(board.decision.remote(number, clock)))

    if shared["num_workers"] > 1:
        outcome = _in_group(config, shared)
    else:
        outcome = _outcome(config, shared, None, at_rung)
    outcome["seconds"]["whole"] = round(time.perf_counter() - start, 3)
    value = outcome["values"][0] if outcome["state"] == "complete" else float("nan")
    tune.report({"value": value, "outcome": json.dumps(outcome)})


def _outcome(config: dict[str, Any], shared: dict[str, Any], scratch: Path | None, at_rung: AtRung) -> dict[str, Any]:
    """A trial, run to its end. Storage errors and lost processes are raised: Tune tries again. All others are the trial's end."""
    torch.set_num_threads(1)
    recipe, corpus = from_json(AnyRecipe, config["recipe"]), cast(Corpus, ray.get(shared["corpus"]))
    with _worker(corpus, scratch) as worker:
        trial = Trial(worker, corpus, shared["plan"], recipe, config["run_uri"])
        try:
            return {"state": "complete", **trial.run(at_rung)}
        except Stopped as stop:
            return {"state": "pruned", "cause": "halving", "reason": str(stop), **trial.facts()}
        except (OSError, RayError):
            raise
        except Exception as error:
            cause = "guard" if isinstance(error, CollapsedModel | Diverged) else "error"
            return {"state": "pruned", "cause": cause, "reason": f"{type(error).__name__}: {error}"[:2000], **trial.facts()}


@contextmanager
def _worker(corpus: Corpus, scratch: Path | None) -> Iterator[Worker]:
    """This process as a worker: alone, or with a folder as one of its group."""
    if scratch is None:
        with alone_with(corpus.table, corpus.waveforms) as worker:
            yield worker
        return
    context = ray.train.get_context()
    place = World.current(), context.get_local_rank(), context.get_local_world_size(), ray.train.torch.get_device()
    cache_bytes = int(CACHE_GB * 2**30)
    yield Worker(*place, scratch, table=corpus.table, waveforms=corpus.waveforms, cache_bytes=cache_bytes, made={})


# ---------------------------------------------------------------- several workers


def _in_group(config: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """A trial in a group of its own: Ray Train inside Tune, the same training code."""
    from ray.tune.integration.ray_train import TuneReportCallback

    number, plan = config["number"], shared["plan"]
    folder = objects.join(plan.search_uri, "ray")  # Ray Train's own small files: every worker has to reach them
    filesystem, path = objects.to_pyarrow_filesystem(folder)
    trainer = TorchTrainer(
        _group_member,
        train_loop_config={"config": config, "shared": shared},
        scaling_config=ray.train.ScalingConfig(
            num_workers=shared["num_workers"],
            use_gpu=shared["use_gpu"],
            resources_per_worker=None if shared["use_gpu"] else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(
            name=f"{number:05d}-{time.time_ns()}",
            storage_path=path,
            storage_filesystem=filesystem if objects.is_s3(folder) else None,
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    outcome: Any = trainer.fit().return_value
    return outcome


def _decision(board: Any, number: int, clock: int) -> bool:
    give_up = time.monotonic() + FORGOTTEN_S
    while (stop := ray.get(board.decision.remote(number, clock))) is None and time.monotonic() < give_up:
        time.sleep(DECISION_S)
    return bool(stop)


def _group_member(loop: dict[str, Any]) -> dict[str, Any]:
    """What each worker of the group runs. An error that may be one worker's alone ends the group; started again it ends at once."""
    config, shared = loop["config"], loop["shared"]
    number, board = config["number"], shared["board"]
    left: Any = ray.get(board.outcome.remote(number))
    if left is not None:
        return left

    def at_rung(clock: int, value: float) -> bool:
        ray.train.report({"number": number, "clock": clock, "value": value})
        told = [_decision(board, number, clock) if ray.train.get_context().get_world_rank() == 0 else False]
        dist.broadcast_object_list(told, src=0)  # all of them stop, or none
        return told[0]

    scratch = Path(tempfile.gettempdir()) / f"vibray-{objects.last_segment(shared['plan'].search_uri)}-{number}-{config['token']}"
    try:
        outcome = _outcome(config, shared, scratch, at_rung)
    finally:
        if ray.train.get_context().get_local_rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)
    if outcome.get("cause") == "error":
        ray.get(board.leave.remote(number, outcome))
        raise RuntimeError(outcome["reason"])  # the other workers may wait for this one
    return outcome
