"""A finished decisions folder: its cuts, and the scores that they are for."""

from typing import Any

from vibray.config import UserError, from_json
from vibray.decide.cuts import Cuts, GroupedCuts
from vibray.storage import objects
from vibray.storage.parts import check_finished, identity_hash
from vibray.tables.scores import ScoresTable


class DecisionsMismatch(UserError):
    """The decisions folder holds other decisions."""


def scores_identity(table: ScoresTable) -> dict[str, str]:
    """Names the content of each corpus of a scores table."""
    return {identity["corpus"]: identity_hash([parts]) for identity, parts in zip(table.identities, table.folders, strict=True)}


def read_cuts(decisions_uri: str) -> Cuts | GroupedCuts:
    """The cuts of a finished decisions folder."""
    check_finished(decisions_uri)
    return cuts_in(objects.read_json(objects.join(decisions_uri, "cuts.json")), decisions_uri)


def cuts_in(made: dict[str, Any], decisions_uri: str) -> Cuts | GroupedCuts:
    """The cuts of a cuts.json."""
    return from_json(GroupedCuts if made["grouped"] else Cuts, made["cuts"], objects.join(decisions_uri, "cuts.json"))


def decided_on(decisions_uri: str) -> dict[str, str]:
    """What `scores_identity` gave of the scores that the decisions were made on."""
    return objects.read_json(objects.join(decisions_uri, "cuts.json"))["scores"]


def as_decided(decisions_uri: str, table: ScoresTable) -> ScoresTable:
    """The table with the scores that the cuts are for: means over sensors where they were made on those.

    Raises DecisionsMismatch where the cuts were made on another run's scores.
    """
    made = objects.read_json(objects.join(decisions_uri, "cuts.json"))
    check_run(decisions_uri, made, table)
    return table.over_sensors(made.get("pool_tolerance_s", 0.0))[0] if made.get("pool_sensors") else table


def check_run(decisions_uri: str, made: dict[str, Any], table: ScoresTable) -> None:
    """Raises DecisionsMismatch where cuts (their cuts.json) were made on another run's scores."""
    if made["run"]["content"] != table.run["content"]:
        raise DecisionsMismatch(
            f"{decisions_uri} holds cuts on scores of the run {made['run']['uri']}, these are of {table.run['uri']}: scores differ in scale"
        )
