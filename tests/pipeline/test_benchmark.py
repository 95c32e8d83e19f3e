"""The benchmark on made-up machines: a grid that is stopped, goes on and tells what failed; what a recipe is shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.lines import FACTS, NUM_UNITS, UNIT_RECORDS, corpus_fields, write_labels, write_units
from vibray.compare.cells import run_cell, scores_of
from vibray.compare.corpus import with_values
from vibray.compare.cost import cell_seconds
from vibray.compare.grid import (
    BenchmarkError,
    cells_of,
    checked,
    contestants,
    describe,
    labelled_corpus,
    vectors_needed,
)
from vibray.compare.jobs import BenchmarkJob
from vibray.decide.areas import auroc
from vibray.decide.splits import Setting
from vibray.models.backbone import TrunkConfig
from vibray.pipeline.benchmark import benchmark
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.recipes import banded, classifier, cwt_classifier, cwt_svdd, small
from vibray.recipes.kinds import ClassifierRecipe, DeepRecipe
from vibray.report.benchmark import standings
from vibray.schema import NORMAL
from vibray.storage import objects
from vibray.storage.parts import finish_folder

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def job(tmp_path_factory, local_ray) -> BenchmarkJob:
    """Four machines of two sensors, a third of their records faulty; the first record of each stands in two files."""
    folder = tmp_path_factory.mktemp("benchmark")
    labels = write_units(folder / "raw")
    first = json.loads((folder / "raw" / "0.jsonl").read_text().splitlines()[0])
    again = {**first, "data_time": "2025-01-01T00:00:00Z"}  # the same waveform at another time, unlabelled
    (folder / "raw" / "again.jsonl").write_text(json.dumps(again) + "\n")
    file = write_labels(folder / "labels.jsonl", labels)
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), vectors=("spectral",), **corpus_fields(FACTS)))
    return checked(
        BenchmarkJob(
            (str(folder / "features"),),
            str(file),
            str(folder / "benchmark"),
            recipes=("knn",),
            num_folds=2,
            seeds=1,
            contamination=(0.0, 0.1),
            label_budgets=(0, 12),
            calibration_records=25,
        )
    )


@pytest.fixture(scope="module")
def corpus(job):
    entries = contestants(job)
    opened, _ = labelled_corpus(job, entries)
    return with_values(opened, vectors_needed(entries), True, lambda done, total: None)


def figures(folder) -> dict[str, dict]:
    values = {p.name: json.loads(p.read_text()) for p in (folder / "cells").iterdir()}
    return {name: {key: own[key] for key in own if key != "seconds"} for name, own in values.items()}


def test_the_grid_holds_the_controls_and_labels_at_the_main_contamination_alone(job):
    entries = contestants(replace(job, recipes=("knn", "cwt-svdd", "zerone-classifier"), small=True))
    assert {n for n, e in entries.items() if e.control} == {"rms", "iforest", "banded", "cwt-svdd-untrained", "labels-only"}
    untrained = entries["cwt-svdd-untrained"].recipe
    assert isinstance(untrained, DeepRecipe)
    assert untrained.optim.epochs == untrained.pretrain.epochs == 0
    cells = cells_of(replace(job, main_contamination=0.1), entries)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {c.setting.contamination for c in cells if c.recipe == "knn"} == {0.0, 0.1}
    for name, budgets in {"knn": {None}, "cwt-svdd": {None}, "zerone-classifier": {12}, "labels-only": {12}}.items():
        assert {c.setting.budget for c in cells if c.recipe == name} == budgets
    assert {c.setting.contamination for c in cells if c.recipe in ("cwt-svdd", "labels-only")} == {0.1}


def test_a_waveform_stands_once_and_sizes_are_told(job, corpus):
    assert len(corpus.table) == NUM_UNITS * UNIT_RECORDS
    said = "\n".join(describe(job, corpus))
    assert said.count("fewer than 50 records") == 2  # 44 records a sensor
    rows = corpus.rows(Setting(0, 0, 0.1))
    assert len(rows.calibration) == 22 * 4  # half of 44, not 25


def test_a_recipe_is_shown_no_label_of_the_pool(job, corpus):
    rows = corpus.rows(Setting(0, 0, 0.1))
    recipe = contestants(job)["knn"].recipe
    blind = replace(corpus, records=replace(corpus.records, label=np.full(len(corpus.table), "", object)))
    one, other = (scores_of(recipe, c.task(rows, 0)) for c in (corpus, blind))
    assert np.array_equal(one.pool, other.pool)
    assert np.array_equal(one.judged, other.judged)
    assert len(corpus.task(rows, 0).labelled) == 0


def test_one_calibration_record_makes_a_sensor_known_and_none_leaves_it_unknown(job, corpus):
    """Of what is unknown nothing raises an alarm."""
    with_one = run_cell(replace(corpus, calibration_records=1), contestants(job)["banded"].recipe, Setting(0, 0, 0.1))
    assert with_one["sizes"]["uncalibrated"] == 0 < with_one["figures"]["at_cut"]["true_alarms"]
    found = run_cell(replace(corpus, calibration_records=0), contestants(job)["banded"].recipe, Setting(0, 0, 0.1))
    assert found["sizes"]["uncalibrated"] == found["sizes"]["judged"]
    assert found["figures"]["at_cut"]["false_alarms"] == found["figures"]["at_cut"]["true_alarms"] == 0
    assert found["identity"]["unit"]["chance"] < 0.6


def test_means_over_sensors_are_of_records_of_one_unit_and_time(job, corpus):
    recipe, setting = contestants(job)["banded"].recipe, Setting(0, 0, 0.1)
    rows = corpus.rows(setting)
    of = corpus.records
    nth = np.array([np.sum((of.sensor == sensor) & (of.order < order)) for sensor, order in zip(of.sensor, of.order, strict=True)])
    shared = replace(corpus, records=replace(of, time=10_000 * nth))
    apart, found = (run_cell(c, recipe, setting)["figures"] for c in (corpus, shared))
    assert apart["auroc_over_sensors"] is None
    assert found["auroc"] == apart["auroc"]
    scored = scores_of(recipe, shared.task(rows, 0))
    means, moment = scored.judged.astype(float), list(zip(shared.records.unit[rows.judged], shared.records.time[rows.judged], strict=True))
    usable = scored.known & ~shared.off[rows.judged]
    for i in np.flatnonzero(usable):
        means[i] = np.mean([scored.judged[j] for j in np.flatnonzero(usable) if moment[j] == moment[i]])
    assert found["auroc_over_sensors"] == pytest.approx(auroc(means, shared.records.label[rows.judged] != NORMAL))


def test_nets_are_trained_and_timed(corpus):
    trunk = TrunkConfig(width=4)
    deep, labelled = small(cwt_svdd(), 1), small(cwt_classifier(), 1)
    assert isinstance(deep, DeepRecipe) and isinstance(labelled, ClassifierRecipe)
    image = replace(deep.feature, rows=32, columns=32)
    deep = replace(deep, feature=image, detector=replace(deep.detector, trunk=trunk), pretrain=replace(deep.pretrain, epochs=1))
    labelled = replace(labelled, image=image, detector=replace(labelled.detector, trunk=trunk))
    for recipe, setting in ((deep, Setting(0, 0, 0.1)), (labelled, Setting(0, 0, 0.1, 12))):
        found = run_cell(corpus, recipe, setting)
        assert 0 <= found["figures"]["auroc"] <= 1
        assert found["identity"]["sensor"] is not None
        json.dumps(found, allow_nan=False)
    assert cell_seconds(corpus, deep, Setting(0, 0, 0.1)) > 0


def test_a_diagnosis_is_judged_on_the_budgets_labels(corpus):
    recipe = replace(classifier(), detector=banded())
    found = run_cell(corpus, recipe, Setting(0, 0, 0.1, 12))
    assert found["figures"]["auroc"] > 0.8
    json.dumps(found, allow_nan=False)


def test_a_benchmark_runs_goes_on_and_refuses_another_grid(job, tmp_path, capsys):
    own = replace(job, benchmark=str(tmp_path / "b"))
    benchmark(replace(own, dry_run=True))
    assert not list(tmp_path.iterdir())
    assert "hours on one core" in capsys.readouterr().out
    with pytest.raises(BenchmarkError, match="more than --max-hours"):
        benchmark(replace(own, max_hours=1e-9))
    assert not list(tmp_path.iterdir())

    benchmark(own)
    out = capsys.readouterr().out
    assert "knn" in out and "1-NN unit" in out
    before = figures(tmp_path / "b")
    assert len(before) == 4 * 2 * 2 + 2  # knn and three controls at two contaminations, labels-only at one
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "b" / "cells").iterdir()}
    gone = tmp_path / "b" / "cells" / "knn-f1-s0-c0.1.json"
    gone.unlink()
    benchmark(own)
    assert "18 cells of 5 recipes, 17 of them done" in capsys.readouterr().out
    assert figures(tmp_path / "b") == before
    assert all(p.stat().st_mtime_ns == at for p, at in written.items() if p != gone)

    result = objects.read_json(str(tmp_path / "b" / "benchmark.json"))
    rows = {(r["recipe"], r["contamination"]): r for r in result["standings"]}
    assert rows["knn", 0.1]["auroc"]["mean"] > 0.7
    assert rows["knn", 0.1]["auroc"]["n"] == 2
    assert rows["knn", 0.1]["auroc_over_sensors"]["n"] == 0  # no two records of a unit have one time
    assert rows["knn", 0.1]["against"]["control"] in ("banded", "iforest", "rms")
    assert all("config" in cell for cell in result["cells"])
    assert (tmp_path / "b" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "b" / "benchmark.md").read_text()
    assert "## AUROC by fault" in page and "over sensors" in page
    with pytest.raises(BenchmarkError, match=r"seeds: 1 in the folder, 2 now"):
        benchmark(replace(own, seeds=2))


def test_a_finished_folder_of_another_job_is_refused(job, tmp_path):
    """Its end mark would be written over."""
    objects.write_json(str(tmp_path / "cuts.json"), {})
    finish_folder(str(tmp_path), ["cuts.json"])
    with pytest.raises(BenchmarkError, match="another job's folder"):
        benchmark(replace(job, benchmark=str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_done.json", "cuts.json"]


def test_a_cell_that_fails_is_told_and_stops_no_other(job, tmp_path):
    """One label is of one kind: a regression cannot be fitted."""
    own = replace(job, benchmark=str(tmp_path / "b"), recipes=("rms",), contamination=(0.1,), label_budgets=(1,))
    own = replace(own, main_contamination=0.1)
    with pytest.raises(BenchmarkError, match=r"2 of 8 cells failed.*\n.*labels-only-f0-s0-c0.1-l1: UserError: .*both kinds"):
        benchmark(own)
    assert len(figures(tmp_path / "b")) == 6
    assert len(list((tmp_path / "b" / "failed").iterdir())) == 2
    assert "Cells that failed" in (tmp_path / "b" / "benchmark.md").read_text()
    assert not (tmp_path / "b" / "_done.json").exists()


def test_differences_to_the_best_control_are_paired():
    def cell(recipe: str, fold: int, area: float | None) -> dict:
        figures = {"auroc": area, "auprc": None, "prevalence": 0.5, "partial_auroc": None, "at_cut": None, "auroc_by_fault": {}}
        setting = {"fold": fold, "seed": 0, "contamination": 0.1, "budget": None}
        sizes = {"pool": 10, "pool_faults": 1}
        own = {"recipe": recipe, "control": recipe != "new", "setting": setting, "sizes": sizes, "figures": figures}
        return {**own, "identity": None, "notes": [], "seconds": 1.0}

    cells = [cell("new", 0, 0.8), cell("new", 1, 0.6), cell("new", 2, None), cell("rms", 0, 0.5), cell("rms", 1, 0.5)]
    cells += [cell("banded", 0, 0.7), cell("banded", 1, 0.5), cell("banded", 2, 0.9)]
    rows = {row["recipe"]: row for row in standings(cells)}
    assert list(rows) == ["banded", "new", "rms"]  # .7, .7, .5: at a tie by name
    assert rows["new"]["against"] == {"control": "banded", "mean": pytest.approx(0.1), "std": pytest.approx(0.0), "n": 2}
    assert rows["banded"]["against"]["control"] == "rms"
