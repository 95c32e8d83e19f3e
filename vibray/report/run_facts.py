"""The run's folder, as its model card tells it: what it was trained on, with what, and how many records make a sensor's baseline."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from vibray.config import UserError, short_hash
from vibray.report.data import Model
from vibray.storage import objects
from vibray.storage.parts import check_finished


def run_facts(run: Mapping[str, Any], calibrations: Iterable[Mapping[str, Any] | None], mains_hz: float | None) -> Model:
    """`run` is what scores say of their run, `calibrations` what they say of their calibrations, one a corpus (None: it has none).

    Where the run or a calibration is gone, or another lies in its place, the card does without it: scores outlive runs.
    """
    known = Model(mains=mains_hz is not None)
    uri = run["uri"]
    try:
        if short_hash(check_finished(uri)["files"]) != run["content"]:
            return known
        recipe, versions = (objects.read_json(objects.join(uri, name)) for name in ("recipe.json", "environment.json"))
        num_context = _of_calibrations([each for each in calibrations if each is not None])
        if num_context is None:
            member = objects.join(uri, "members", run["members"][0]) if run["members"] else uri
            num_context = _of_scaling(objects.read_json(objects.join(member, "scaling.json")))
    except (UserError, KeyError, FileNotFoundError):
        return known
    identity = recipe.get("identity") or {}
    trained_on = {
        "detector": (recipe["recipe"].get("detector") or {}).get("kind"),
        "trained on": ", ".join(each["uri"] for each in (identity.get("features") or {}).values()) or None,
        "trained with labels": "yes" if identity.get("labels") else None,
    }
    return Model(known.mains, num_context, trained_on, {name: v for name, v in versions.items() if name != "format_version"})


def _of_calibrations(calibrations: list[Mapping[str, Any]]) -> int | None:
    """Median number of records over the sensors of all of them."""
    counts: list[int] = []
    for each in calibrations:
        table = objects.read_table(objects.join(each["uri"], "calibration.parquet"), ["member", "num_records"]).to_pylist()
        counts += [row["num_records"] for row in table if row["member"] == table[0]["member"]]
    return int(median(counts)) if counts else None


def _of_scaling(values: Mapping[str, Any]) -> int | None:
    """Median number of records over the sensors of the first scaling that knows sensors."""
    for scaling in values["scalings"].values():
        counts = [count for *_, count in scaling["num_records"]]
        if counts:
            return int(median(counts))
    return None
