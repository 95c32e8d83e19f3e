"""The folder of a search and the Optuna study that is made of it: one JSON file a trial is the record, nothing is ever unpickled.

search.json            what is searched: another command on the folder is an error
started/<number>.json  parameters of a trial, written before it runs
trials/<number>.json   a finished trial, written whole and once
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import TrialState, create_trial

from vibray.compare.space import Params, Space, propose
from vibray.config import UserError, first_line, short_hash, to_json
from vibray.recipes.kinds import Recipe
from vibray.storage import objects
from vibray.storage.errors import HalfWritten
from vibray.storage.plan import begin_folder, check_begun

T = TypeVar("T")

ANOTHER = "with another search"

log = logging.getLogger(__name__)

ATTEMPTS, PAUSE_S = 4, 2.0
"""Times that a write of the record is tried, and the pause before the second; it doubles each time."""

DIRECTIONS: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
"""Of the objective and of the cost."""

STARTUP_TRIALS = 10
"""Trials drawn at random before TPE has something to learn from."""


class SearchError(UserError):
    """The arguments of a search do not fit one another, its corpus or its folder."""


def retried(action: Callable[[], T]) -> T:
    """What `action` gives, tried again after an OSError: a week's search must outlive a storage that is away for seconds."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError as error:
            if attempt == ATTEMPTS - 1:
                raise
            log.warning("storage failed, trying again: %s", error)
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError


@dataclass(frozen=True)
class Folder:
    """A search's folder."""

    uri: str

    def begin(self, plan: dict[str, Any]) -> None:
        """Writes search.json at the first start. Raises SearchError, showing both, where another search was begun here."""
        retried(lambda: begin_folder(self.uri, "search.json", plan, ANOTHER, SearchError))

    def check(self, plan: dict[str, Any]) -> None:
        """Raises SearchError where the folder holds another search."""
        check_begun(self.uri, "search.json", plan, ANOTHER, SearchError)

    def run_uri(self, recipe: Recipe) -> str:
        """Where the folds' runs of a recipe lie."""
        return objects.join(self.uri, "runs", short_hash(recipe))

    def start(self, number: int, values: dict[str, Any]) -> None:
        retried(lambda: objects.write_json(self._name("started", number), values))

    def finish(self, number: int, values: dict[str, Any]) -> None:
        try:
            retried(lambda: objects.write_json(self._name("trials", number), values, exclusive=True))
        except FileExistsError:  # a write whose answer was lost has arrived all the same
            log.warning("trial %d stands in the folder already", number)

    def trials(self) -> dict[int, dict[str, Any]]:
        """Finished trials by number."""
        return self._read("trials")

    def started(self) -> dict[int, dict[str, Any]]:
        """Trials by number, as they were begun."""
        return self._read("started")

    def _name(self, folder: str, number: int) -> str:
        return objects.join(self.uri, folder, f"{number:05d}.json")

    def _read(self, folder: str) -> dict[int, dict[str, Any]]:
        try:
            infos = retried(lambda: objects.list_objects(objects.join(self.uri, folder)))
        except FileNotFoundError:
            return {}
        found = {}
        for info in infos:
            try:
                found[int(info.key.removesuffix(".json"))] = objects.read_json(objects.join(self.uri, folder, info.key))
            except HalfWritten as error:
                if folder == "trials":
                    raise
                log.warning("%s; its trial is drawn again", error)  # killed in the middle of the write: nothing ran yet
        return dict(sorted(found.items()))


class Study:
    """An Optuna study over a folder: ask for a trial, tell what became of it.

    The sampler is made anew for every trial, from the search's seed and the trial's number: nothing of it need be remembered, and where
    one trial runs at a time a study that was stopped goes on as if it never had been.
    """

    def __init__(self, folder: Folder, recipe: Recipe, space: Space, seed: int, num_objectives: int, first: Params | None):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.recipe, self.space, self.seed = folder, recipe, space, seed
        self.study = optuna.create_study(directions=DIRECTIONS[:num_objectives])
        self.asked: dict[int, optuna.Trial] = {}
        self.finished = folder.trials()
        started = folder.started()
        for number in range(max([*self.finished, *started], default=-1) + 1):
            if number in self.finished:
                self.study.add_trial(frozen(self.finished[number], num_objectives))
            elif number in started:
                self.study.enqueue_trial(started[number]["params"])
            else:
                raise SearchError(f"{folder.uri} has no trial {number}, but later ones: its files were removed; start in another folder")
        if not self.study.trials and first is not None:
            self.study.enqueue_trial(first)

    def ask(self) -> tuple[int, Params, Recipe]:
        """The next trial: one that was begun before and not finished, else a new one. It is in the folder before it is returned."""
        trial = self.study.ask()  # draws nothing yet
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=trial_seed(self.seed, trial.number))
        recipe = propose(trial, self.recipe, self.space)
        self.asked[trial.number] = trial
        self.folder.start(trial.number, {"number": trial.number, "params": trial.params, "hash": short_hash(recipe)})
        return trial.number, dict(trial.params), recipe

    def tell(self, number: int, recipe: Recipe, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a finished trial and tells the study; returns what was written.

        `outcome` has the state ("complete" or "pruned"), for a pruned one cause and reason, and whatever the trial found.
        """
        trial = self.asked.pop(number)
        values = {
            "number": number,
            "params": trial.params,
            "distributions": {name: distribution_to_json(own) for name, own in trial.distributions.items()},
            "recipe": to_json(recipe),
            "hash": short_hash(recipe),
            "run": self.folder.run_uri(recipe),
            **outcome,
        }
        self.folder.finish(number, values)
        self.finished[number] = values
        if len(self.study.directions) == 1:
            for clock, value in values["rungs"].items():
                trial.report(value, int(clock))
        complete = values["state"] == "complete"
        self.study.tell(trial, values["values"] if complete else None, TrialState.COMPLETE if complete else TrialState.PRUNED)
        return values


def trial_seed(seed: int, number: int) -> int:
    """The seed of a trial's sampler."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "little")


def frozen(values: Mapping[str, Any], num_objectives: int) -> optuna.trial.FrozenTrial:
    """A finished trial as Optuna wants it."""
    complete = values["state"] == "complete"
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        values=values["values"] if complete else None,
        params=values["params"],
        distributions={name: json_to_distribution(own) for name, own in values["distributions"].items()},
        # of several objectives Optuna knows no intermediate values
        intermediate_values={int(clock): value for clock, value in values["rungs"].items()} if num_objectives == 1 else {},
        user_attrs={"number": values["number"], "hash": values["hash"], "best_setting": values.get("best_setting")},
    )


class Mirror:
    """The finished trials in an Optuna storage, for optuna-dashboard. The folder stays the record: a mirror that fails is told, no more."""

    def __init__(self, url: str, name: str, num_objectives: int):
        check_storage(url)
        try:
            self.storage = optuna.storages.RDBStorage(url)
            directions = DIRECTIONS[:num_objectives]
            self.study = optuna.create_study(storage=self.storage, study_name=name, directions=directions, load_if_exists=True)
        except Exception as error:
            raise SearchError(f"--storage {url}: {first_line(error)}") from error
        self.there = {trial.user_attrs.get("number") for trial in self.study.get_trials(deepcopy=False)}
        self.num_objectives = num_objectives

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds a finished trial that is not there yet."""
        if values["number"] in self.there:
            return
        try:
            self.study.add_trial(frozen(values, self.num_objectives))
            self.there.add(values["number"])
        except Exception as error:  # whatever a database driver raises
            log.warning("trial %d is not in the mirror: %s", values["number"], first_line(error))

    def close(self) -> None:
        """Ends the connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()


@contextmanager
def mirrored(url: str | None, name: str, num_objectives: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What takes a finished trial to the mirror, whose connections end with the block; without a URL it takes it nowhere."""
    if url is None:
        yield lambda values: None
        return
    mirror = Mirror(url, name, num_objectives)
    try:
        yield mirror.add
    finally:
        mirror.close()


def check_storage(url: str) -> None:
    """Raises SearchError for a URL that is none, or one with a password: it would stand in every list of processes."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        password = make_url(url).password
    except ArgumentError:
        raise SearchError(f"--storage {url}: write sqlite:///search.db or postgresql://user@host/database") from None
    if password:
        raise SearchError("--storage with a password is refused: give it by PGPASSWORD or ~/.pgpass")
