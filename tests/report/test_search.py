"""What a search shows: the tables and figures of made-up trials."""

import dataclasses
import re
from typing import Any

import pytest

from tests.report.fleet import report_data
from vibray.report.page import render
from vibray.report.search import document, setting_text, threshold_rows, trial_table
from vibray.report.search_figures import front_svg, history_svg, importance_svg, slices_svg
from vibray.report.search_page import search_context, search_page

PLAN = {"num_folds": 3}


def trial(number: int, value: float | None, **params: Any) -> dict[str, Any]:
    """A trial; without a value one that was stopped at 4 epochs."""
    row = {"setting": {"kind": "mad", "normal": 2.0, "anomaly": 3.0, "log": "auto"}, "f1": 0.8, "precision": 0.9, "recall": 0.7}
    row |= {"realised_rate": 0.1, "num_folds": 3, "reason": ""}
    whole = {"state": "complete", "values": [value], "best_setting": row, "thresholds": [row], "mflop": 2.0 + number}
    ended = {"state": "pruned", "cause": "halving", "reason": "stopped at 4 epochs with 0.5000 <b>"}
    told = {"rungs": {"2": 0.6, "4": 0.5}, "clock": 4, "folds": [{"auroc": 0.7}], "seconds": {"training": 2.0, "evaluation": 0.5}}
    return {"number": number, "params": params, "hash": f"h{number}", **told, **(ended if value is None else whole)}


TRIALS = [
    trial(0, 0.7, lr=1e-3, objective="hypersphere"),
    trial(1, None, lr=1e-4, objective="soft-boundary", nu=0.1),
    trial(2, 0.9, lr=3e-2, objective="hypersphere"),
    trial(3, 0.8, lr=1e-2, objective="soft-boundary", nu=0.02),
]


def summary(front: list[int]) -> dict[str, Any]:
    seconds = {"wall": 10.0, "training": 8.0, "evaluation": 1.0, "overhead": 0.1}
    found = {"objective": "auroc", "winner": 2, "best": 2, "gain": 0.2, "error": 0.05, "front": front}
    return {**found, "importance": {"lr": 0.75, "objective": 0.25}, "seconds": seconds}


def test_the_table_has_the_best_first_and_the_stopped_last():
    lines = trial_table(TRIALS, "auroc").splitlines()
    assert [re.split(r"\s*\|\s*", line)[1] for line in lines[2:]] == ["2", "3", "0", "1"]
    assert "(0.5000)" in lines[-1] and "halving at 4" in lines[-1]
    assert "mad 3" in lines[2] and "0.9000" in lines[2]
    assert "more in trials/" in trial_table(TRIALS, "auroc", limit=2)


def test_a_cut_is_named_by_method_and_parameter():
    assert setting_text({"setting": {"kind": "conformal", "q": 0.05}}) == "conformal 0.05"
    assert setting_text(None) == "-"
    assert "no cut where" in threshold_rows(TRIALS[0])


def test_the_document_tells_everything():
    text = document(PLAN, TRIALS, summary([2, 0]))
    for part in (
        "4 trials, 3 complete and 1 ended early",
        "Winner: trial 2",
        "gains +0.2000, standard error 0.0500",
        "Front of objective and cost",
        "| lr",
        "10.0 %",
    ):
        assert part in text, part
    assert "Front" not in document(PLAN, TRIALS, summary([]))
    by_chance = {**summary([]), "winner": 0, "gain": 0.02}
    assert "Winner: trial 0" in document(PLAN, TRIALS, by_chance) and "no more than chance" in document(PLAN, TRIALS, by_chance)
    failed = [*TRIALS, {**TRIALS[1], "number": 4, "cause": "guard", "reason": "CollapsedModel: one point"}]
    assert "* 4: CollapsedModel: one point" in document(PLAN, failed, summary([]))


def test_the_page_is_one_file_and_shows_text_as_text():
    page = search_page(PLAN, TRIALS, summary([2, 0]))
    assert page.count("<svg") == 4
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "http:" not in page and "https:" not in page
    few = search_page(PLAN, TRIALS[:1], {**summary([]), "winner": 0, "importance": {}})
    assert few.count("<svg") == 2  # history and slices


def test_the_report_of_scores_has_a_section_of_the_search():
    data = dataclasses.replace(report_data(200), search=search_context(PLAN, TRIALS, summary([])))
    page = render(data)
    assert 'href="#search"' in page and "The search behind the run" in page and "Trial 2 wins" in page
    assert "The search behind the run" not in render(report_data(200))


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (lambda: history_svg(TRIALS, "auroc"), "3 complete trials, 1 ended early; the best is 0.9000"),
        (lambda: importance_svg({"lr": 0.75}), "lr 0.75"),
        (lambda: slices_svg(TRIALS, "auroc", ["objective", "lr"]), "auroc by objective, lr, nu"),
        (lambda: front_svg(TRIALS, "auroc", [2, 0]), "2 of them on the front"),
    ],
)
def test_every_figure_has_words_for_those_who_cannot_see_it(drawn, said):
    made = drawn()
    assert made.startswith("<svg") and said in made.split(">")[0]
