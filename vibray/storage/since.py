"""What earlier jobs over the same input hold, so that a new one reads only what came since."""

from typing import Any

from vibray.config import short_hash
from vibray.storage.parts import done_parts, missing
from vibray.storage.plan import Plan, PlanMismatch, read_plan


def lineage(folder_uri: str) -> dict[str, Plan]:
    """The plan of a folder, that of the folder it continued, and so on, by URI. Raises ObjectMissing where one is gone."""
    plans: dict[str, Plan] = {}
    uri: str | None = folder_uri
    while uri is not None and uri not in plans:
        plans[uri] = read_plan(uri)
        uri = (plans[uri].identity.get("since") or {}).get("uri")
    return plans


def held(plans: dict[str, Plan]) -> dict[str, tuple[str, int]]:
    """(etag, size) of each shard that a line of plans holds, by key; where two hold one, as the later holds it."""
    shards: dict[str, tuple[str, int]] = {}
    for plan in reversed(plans.values()):
        shards.update({key: (etag, size) for part in plan.parts for key, etag, size in part.objects})
    return shards


def continued(since_uri: str, input_uri: str, run: dict[str, Any] | None = None) -> tuple[dict[str, tuple[str, int]], dict[str, Any]]:
    """What the folder that is continued and those before it hold, and what the new job's identity says of it.

    The corpus may be another: tables that are to be read together need names of their own.
    Raises PlanMismatch for a folder of another input, and, where a run is named, for one that is no table of its scores.
    """
    plans = lineage(since_uri)
    for uri, plan in plans.items():
        there = str(plan.identity.get("input", ""))
        if there.rstrip("/") != input_uri.rstrip("/"):
            raise PlanMismatch(f"{uri} is of {there}, not of {input_uri}: only a job over the same input can be continued")
        todo = missing(plan, done_parts(uri))
        if todo:
            print(f"note: {len(todo)} of {len(plan.parts)} parts of {uri} are not done; what they hold is left to that job: run it again")
    if run is not None and (plans[since_uri].identity.get("run") or {}).get("content") != run["content"]:
        raise PlanMismatch(f"{since_uri} holds no scores of {run['uri']}: only a table of the same run can be continued")
    shards = held(plans)
    return shards, {"uri": since_uri, "held": short_hash(sorted([key, *facts] for key, facts in shards.items()))}
