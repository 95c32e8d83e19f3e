"""The model card: README's table held once more, and what a run's folder says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fleet
from vibray.config import short_hash
from vibray.report.data import Model
from vibray.report.expectations import expected, recipes, whole
from vibray.report.page import render
from vibray.report.run_facts import run_facts
from vibray.storage import objects
from vibray.storage.parts import finish_folder

README = Path(__file__).parents[2] / "README.md"


def of_readme() -> tuple[list[str], list[tuple[str, str, list[float | None]]]]:
    """Recipes and rows of the table under "What to expect"; an empty first cell is as above."""
    lines = README.read_text(encoding="utf-8").split("## What to expect")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    machines, found = "", []
    for first, sensors, *values in rows[2:]:
        machines = first or machines
        found.append((machines, sensors, [float(value) if value else None for value in values]))
    return rows[0][2:], found


def test_the_figures_are_those_of_the_readme() -> None:
    names, rows = of_readme()
    assert len(rows) > 8 and list(recipes()) == names
    assert [(row["machines"], row["sensors"], row["auroc"]) for row in whole()["rows"]] == rows
    for row in whole()["rows"]:
        said = re.search(r"new, (\d+) record", row["sensors"])
        assert row["records"] in (None, int(said[1]) if said else None)
        assert row["mains"] == ("bearing" not in row["machines"] and "gearbox" not in row["machines"])


@pytest.mark.parametrize(("context", "records"), [(1, 1), (3, 1), (4, 4), (57, 16), (10_000, 200)])
def test_transformers_are_told_what_as_many_records_bring(context: int, records: int) -> None:
    counted = [row for row in expected(True, context) if row.machines == "generated transformers"]
    assert [row.sensors for row in counted] == [f"new, {records} record{'s' if records > 1 else ''}"]


def test_machines_without_mains_are_told_of_the_public_corpora() -> None:
    assert {row.machines for row in expected(False, 3)} >= {"gearbox, broken tooth", "bearings run to failure"}
    assert expected(False, 3)[0].sensors == "new, 10 records"
    assert not {row.machines for row in expected(False, None)} & {row.machines for row in expected(True, None)}


def run_folder(tmp_path: Path) -> dict:
    uri = str(tmp_path / "run")
    sensors = [["u1", "a", 20], ["u1", "b", 40], ["u2", "a", 60]]
    files = {
        "recipe.json": {
            "recipe": {"kind": "classical", "detector": {"kind": "fused"}},
            "identity": {"features": {"pool": {"uri": "s3://f/pool"}}},
        },
        "environment.json": {"python": "3.11.7", "vibray": "0.1.0"},
        "scaling.json": {"scalings": {"": {"num_records": sensors}}},
    }
    for name, values in files.items():
        objects.write_json(objects.join(uri, name), values)
    finish_folder(uri, list(files))
    content = short_hash(objects.read_json(objects.join(uri, "_done.json"))["files"])
    return {"uri": uri, "kind": "classical", "members": [], "content": content}


def test_what_the_runs_folder_says(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    model = run_facts(run, [None], 50.0)
    assert (model.mains, model.num_context, model.trained_on["detector"], model.trained_on["trained on"]) == (
        True,
        40,
        "fused",
        "s3://f/pool",
    )
    assert model.versions == {"python": "3.11.7", "vibray": "0.1.0"}
    assert run_facts({**run, "content": "another"}, [None], None) == Model(mains=False)
    assert run_facts({**run, "uri": str(tmp_path / "gone")}, [None], 50.0) == Model(mains=True)


def test_the_card_on_the_page() -> None:
    data = fleet.report_data(60, evidence=None, explanations={})
    spread = {"num_units": 5, "num_resamples": 500, "auroc": {"interval": [0.9, 0.95]}}
    model = Model(mains=True, num_context=20, trained_on={"trained on": "s3://f/pool"}, versions={"vibray": "0.1.0"})
    page = render(replace(data, model=model, metrics={"auroc": 0.93, "spread_by_unit": spread}))
    card = page[page.index('id="model"') :].split("</section>")[0]
    for words in (
        "3fa9c01d22be",
        "s3://f/pool",
        "vibray 0.1.0",
        "0.900 to 0.950, bootstrap of 5 units",
        "new, 16 records",
        "0.976",
        "20 records",
    ):
        assert words in card
    bare = render(replace(data, metrics=None))
    assert "how good the scores are on this fleet is not known" in bare and "On machines like these" not in bare
