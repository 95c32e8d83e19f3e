"""MLflow's side of a training, against a SQLite database. What a training on Ray tells it is tested in test_deep_line.py."""

import importlib.util

import pytest

from vibray.recipes import cwt_svdd
from vibray.storage import objects
from vibray.train.guards import Guard, GuardReport
from vibray.train.tracking import Tracking, shown, tracked

ENVIRONMENT = {"python": "3.11.9", "vibray": "0.1.0"}
GUARDS = GuardReport((Guard("finite scores", True, "all", 1.0), Guard("spread of scores", False, "none", 0.0)))


@pytest.fixture(scope="module")
def mlflow():
    return pytest.importorskip("mlflow", reason="mlflow is not installed (pip install -e '.[mlflow]')")


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Tracking:
    """One for all tests: making its tables takes seconds."""
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db", "vibray")


class Stopped(Exception):
    pass


def test_a_run_has_the_recipe_the_epochs_the_guards_and_where_it_lies(mlflow, database, tmp_path):
    told: list[str] = []
    uri = str(tmp_path / "runs" / "svdd")
    with tracked(database, uri, cwt_svdd(), ENVIRONMENT, told.append) as tracker:
        for epoch, loss in enumerate((3.0, 2.0)):
            tracker.epoch("train", epoch, {"loss": loss, "records_per_s": 10, "note": "not a number"})
        tracker.result({"stage": "guards", **GUARDS.values()})
    client = mlflow.MlflowClient(tracking_uri=database.uri)
    run = client.get_run(objects.read_json(f"{uri}/mlflow.json")["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "svdd"
    assert run.data.params["optim.epochs"] == "10"
    assert run.data.params["detector.trunk.kind"] == "time"
    assert run.data.tags["vibray.run"] == uri
    assert run.data.tags["version.vibray"] == "0.1.0"
    assert run.data.tags["guards"] == "tripped: spread of scores"
    assert run.data.metrics == {"train/loss": 2, "train/records_per_s": 10, "guards/finite_scores": 1, "guards/spread_of_scores": 0}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(0, 3), (1, 2)]
    assert not told


def test_a_training_that_goes_on_goes_on_in_the_same_run(mlflow, database, tmp_path):
    uri = str(tmp_path / "run")
    with pytest.raises(Stopped), tracked(database, uri, cwt_svdd(), ENVIRONMENT, print) as tracker:
        tracker.epoch("train", 0, {"loss": 3.0})
        raise Stopped
    client = mlflow.MlflowClient(tracking_uri=database.uri)
    run_id = objects.read_json(f"{uri}/mlflow.json")["run_id"]
    assert client.get_run(run_id).info.status == "FAILED"
    with tracked(database, uri, cwt_svdd(), ENVIRONMENT, print) as tracker:
        assert client.get_run(run_id).info.status == "RUNNING"
        tracker.epoch("train", 1, {"loss": 2.0})
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [0, 1]
    assert client.get_run(run_id).info.status == "FINISHED"
    with tracked(database, str(tmp_path / "other"), cwt_svdd(), ENVIRONMENT, print):
        pass
    assert objects.read_json(f"{tmp_path}/other/mlflow.json")["run_id"] != run_id


def test_an_error_of_mlflow_is_told_once_and_ends_the_tracking_only(mlflow, database, tmp_path):
    told: list[str] = []
    with tracked(database, str(tmp_path / "a"), cwt_svdd(), ENVIRONMENT, told.append) as tracker:
        tracker.epoch("train", 0, {"loss": 3.0})
        mlflow.MlflowClient(tracking_uri=database.uri).delete_run(tracker.run_id)  # by somebody else, while it trains
        for epoch in (1, 2):
            tracker.epoch("train", epoch, {"loss": 2.0})
    assert len(told) == 1
    assert "MLflow is told nothing more" in told[0]
    with tracked(Tracking("nothing://is.here", "vibray"), str(tmp_path / "b"), cwt_svdd(), ENVIRONMENT, told.append) as tracker:
        tracker.epoch("train", 0, {"loss": 3.0})
    assert len(told) == 2
    assert "MLflow is told nothing (" in told[1]


def test_a_server_that_is_not_there_holds_nothing_up_and_its_password_is_told_to_nobody(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told: list[str] = []
    nobody = Tracking("http://name:secret@127.0.0.1:9", "vibray")
    with tracked(nobody, str(tmp_path / "run"), cwt_svdd(), ENVIRONMENT, told.append) as tracker:
        tracker.epoch("train", 0, {"loss": 3.0})
    assert len(told) == 1
    assert "127.0.0.1:9" in told[0] and "secret" not in told[0]


def test_without_mlflow_a_training_says_what_to_install(database, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told: list[str] = []
    with tracked(database, str(tmp_path / "run"), cwt_svdd(), ENVIRONMENT, told.append) as tracker:
        tracker.epoch("train", 0, {"loss": 3.0})
    assert told == ["warning: MLFLOW_TRACKING_URI is set but mlflow is not installed: pip install -e '.[mlflow]'"]
    assert not (tmp_path / "run").exists()


def test_where_to_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking.from_environment() is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pumps")
    assert Tracking.from_environment() == Tracking(f"sqlite:///{tmp_path}/a/mlflow.db", "pumps")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://name:secret@mlflow.example")
    found = Tracking.from_environment()
    assert found is not None and found.uri == "https://name:secret@mlflow.example"


def test_a_password_in_the_address_is_not_written():
    assert shown("https://name:secret@mlflow.example/x") == "https://mlflow.example/x"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
