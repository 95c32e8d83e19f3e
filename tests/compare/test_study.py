"""The record of a search: rebuilt from its files a study goes on as if it had never stopped."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests.pipeline.postgres import postgresql
from vibray.compare import study
from vibray.compare.space import own_params, space_of
from vibray.compare.study import Folder, Mirror, SearchError, Study, check_storage, mirrored, retried, trial_seed
from vibray.compare.trial import rungs
from vibray.recipes import cwt_svdd
from vibray.storage import objects

RECIPE = cwt_svdd()
SPACE = space_of(RECIPE)


def outcome(params: dict, num_objectives: int = 1) -> dict:
    """A made-up trial: hypersphere and a learning rate of 2e-3 are best; nets wider than 100 collapse, slow ones are stopped."""
    told = {"rungs": {"2": 1 - params["lr"]}, "clock": 2, "folds": [], "seconds": {"training": 1.0, "evaluation": 0.1}}
    if params["width"] > 100:
        return {"state": "pruned", "cause": "guard", "reason": "CollapsedModel", **told, "rungs": {}}
    if params["lr"] < 3e-4:
        return {"state": "pruned", "cause": "halving", "reason": "stopped", **told}
    value = 1 - abs(params["lr"] - 2e-3) * 50 - 0.2 * (params["objective"] != "hypersphere") + params["latent_dim"] * 1e-5
    return {"state": "complete", "values": [value, params["width"] / 64.0][:num_objectives], "best_setting": None, **told}


def study_of(folder: Path, seed: int = 3, num_objectives: int = 1) -> Study:
    return Study(Folder(str(folder)), RECIPE, SPACE, seed, num_objectives, own_params(RECIPE, SPACE))


def run(study: Study, upto: int, num_objectives: int = 1) -> None:
    while len(study.finished) < upto:
        number, params, recipe = study.ask()
        study.tell(number, recipe, outcome(params, num_objectives))


@pytest.mark.parametrize("num_objectives", [1, 2])
def test_a_study_that_was_killed_is_the_study_that_was_not(tmp_path, num_objectives):
    """Killed after 0, 1, 7 and 13 trials, each time with one more that had begun."""
    run(study_of(tmp_path / "whole", num_objectives=num_objectives), 18, num_objectives)
    for upto in (0, 1, 7, 13, 18):
        study = study_of(tmp_path / "parts", num_objectives=num_objectives)
        run(study, upto, num_objectives)
        if upto < 18:
            study.ask()
    whole, parts = (Folder(str(tmp_path / name)).trials() for name in ("whole", "parts"))
    assert list(whole) == list(parts) == list(range(18))
    for number, values in whole.items():
        assert {**parts[number], "run": ""} == {**values, "run": ""}
    assert {values["state"] for values in whole.values()} == {"complete", "pruned"}
    assert whole[0]["params"] == own_params(RECIPE, SPACE)
    best = [max(t["values"][0] for t in found.values() if t["state"] == "complete") for found in (whole, parts)]
    assert best[0] == best[1]


def test_another_seed_draws_other_trials_and_tpe_beats_chance(tmp_path):
    for seed in (1, 2):
        run(study_of(tmp_path / str(seed), seed), 30)
    one, other = (Folder(str(tmp_path / str(seed))).trials() for seed in (1, 2))
    assert one[0]["params"] == other[0]["params"]
    assert all(one[n]["params"] != other[n]["params"] for n in range(1, 30))
    late = [t["values"][0] for t in one.values() if t["state"] == "complete" and t["number"] >= 20]
    early = [t["values"][0] for t in one.values() if t["state"] == "complete" and 0 < t["number"] < 10]
    assert sum(late) / len(late) > sum(early) / len(early)


def test_trials_that_ran_at_once_are_run_again_under_their_numbers(tmp_path):
    study = study_of(tmp_path)
    asked = {number: params for number, params, _ in (study.ask() for _ in range(3))}
    recipe = study.asked  # two end, in another order than they began
    assert set(recipe) == {0, 1, 2}
    study.tell(2, RECIPE, outcome(asked[2]))
    again = study_of(tmp_path)
    for expected in (0, 1):
        number, params, _ = again.ask()
        assert (number, params) == (expected, asked[expected])
    assert again.ask()[0] == 3


def test_a_start_that_was_half_written_is_drawn_again(tmp_path):
    study = study_of(tmp_path)
    run(study, 4)
    _, params, _ = study.ask()
    (tmp_path / "started" / "00004.json").write_bytes(b'{"number": 4, "par')
    number, again, _ = study_of(tmp_path).ask()
    assert number == 4 and again == params


def test_a_hole_in_the_record_is_an_error(tmp_path):
    run(study_of(tmp_path), 4)
    for folder in ("trials", "started"):
        (tmp_path / folder / "00001.json").unlink()
    with pytest.raises(SearchError, match="no trial 1"):
        study_of(tmp_path)


def test_another_search_on_the_folder_shows_both(tmp_path):
    folder = Folder(str(tmp_path / "s"))
    folder.begin({"seed": 0, "space": {"lr": [1, 2]}})
    folder.begin({"seed": 0, "space": {"lr": [1, 2]}})
    with pytest.raises(SearchError, match="seed: 0 in the folder, 1 now"):
        folder.begin({"seed": 1, "space": {"lr": [1, 2]}})


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, tmp_path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "postgresql":
        with postgresql() as url:
            yield url
    else:
        yield f"sqlite:///{tmp_path / 'mirror.db'}"


def test_the_mirror_gets_every_trial_once(tmp_path, storage):
    study = study_of(tmp_path / "s")
    with mirrored(storage, "s", 1) as mirror:
        for _ in range(5):
            number, params, recipe = study.ask()
            mirror(study.tell(number, recipe, outcome(params)))
    run(study, 9)
    with mirrored(storage, "s", 1) as again:
        for values in study.finished.values():
            again(values)
    there = Mirror(storage, "s", 1)
    trials = there.study.trials
    there.close()
    assert sorted(trial.user_attrs["number"] for trial in trials) == list(range(9))
    for trial in trials:
        values = study.finished[trial.user_attrs["number"]]
        assert trial.params == values["params"]
        if values["state"] == "complete":
            assert trial.values == values["values"]


def test_a_mirror_that_fails_is_no_end_and_one_that_cannot_be_opened_is_told(tmp_path, caplog):
    url = f"sqlite:///{tmp_path / 'mirror.db'}"
    study = study_of(tmp_path / "s")
    number, params, recipe = study.ask()
    with mirrored(url, "s", 1) as mirror:
        optuna.delete_study(study_name="s", storage=url)
        mirror(study.tell(number, recipe, outcome(params)))
    assert "not in the mirror" in caplog.text
    with pytest.raises(SearchError, match="--storage"):
        Mirror(f"sqlite:///{tmp_path}/no/such/folder/a.db", "s", 1)


def test_a_password_on_the_command_line_is_refused():
    check_storage("postgresql://user@host/database")
    with pytest.raises(SearchError, match="PGPASSWORD") as error:
        check_storage("postgresql://user:verysecret@host/database")
    assert "verysecret" not in str(error.value)
    with pytest.raises(SearchError, match="sqlite:///"):
        check_storage("nonsense")


def test_storage_that_is_away_for_a_while_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PAUSE_S", 0.0)
    calls = []

    def write(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("busy")

    monkeypatch.setattr(objects, "write_json", write)
    Folder(str(tmp_path)).finish(0, {})
    assert len(calls) == 3
    with pytest.raises(OSError, match="gone"):
        retried(lambda: (_ for _ in ()).throw(OSError("gone")))


def test_rungs_and_seeds():
    assert rungs(30, 5, 3) == (5, 15)
    assert rungs(8, 2, 2) == (2, 4)
    assert rungs(2, 2, 3) == ()
    assert len({trial_seed(0, n) for n in range(1000)} | {trial_seed(1, n) for n in range(1000)}) == 2000


def test_a_folder_that_was_copied_goes_on(tmp_path):
    run(study_of(tmp_path / "a"), 6)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run(study_of(tmp_path / "a"), 12)
    run(study_of(tmp_path / "b"), 12)
    a, b = (Folder(str(tmp_path / name)).trials() for name in "ab")
    assert [t["params"] for t in a.values()] == [t["params"] for t in b.values()]
