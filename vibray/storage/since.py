"""What earlier jobs over the same input hold, so that a new one reads only what came since."""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from vibray.config import short_hash
from vibray.storage import objects
from vibray.storage.parts import done_parts, missing
from vibray.storage.plan import Plan, PlanMismatch, read_plan


def lineage(folder_uri: str) -> dict[str, Plan]:
    """The plan of a folder, that of the folder it continued, and so on, by URI. Raises ObjectMissing where one is gone."""
    plans: dict[str, Plan] = {}
    uri: str | None = folder_uri
    while uri is not None and uri not in plans:
        plans[uri] = read_plan(uri)
        uri = _since(plans[uri])
    return plans


def held(plans: dict[str, Plan], unread: Mapping[str, frozenset[str]] = MappingProxyType({})) -> dict[str, tuple[str, int]]:
    """(etag, size) of each shard that a line of plans holds, by key; where two hold one, as the later holds it.

    `unread` are the shards of each plan, by its URI, that its job left as they are.
    """
    shards: dict[str, tuple[str, int]] = {}
    for uri, plan in reversed(plans.items()):
        left = unread.get(uri, frozenset())
        shards.update({key: (etag, size) for part in plan.parts for key, etag, size in part.objects if key not in left})
    return shards


def continued(since_uri: str, input_uri: str, run: dict[str, Any] | None = None) -> tuple[dict[str, tuple[str, int]], dict[str, Any]]:
    """What the folder that is continued and those before it hold, and what the new job's identity says of it.

    The corpus may be another: tables that are to be read together need names of their own.
    Raises PlanMismatch for a folder of another input, and, where a run is named, for one that is no table of its scores.
    """
    plans, unread = lineage(since_uri), dict[str, frozenset[str]]()
    for uri, plan in plans.items():
        there = str(plan.identity.get("input", ""))
        if there.rstrip("/") != input_uri.rstrip("/"):
            raise PlanMismatch(f"{uri} is of {there}, not of {input_uri}: only a job over the same input can be continued")
        with suppress(FileNotFoundError):  # written when all parts were: the markers of a year of tables need not be read
            unread[uri] = frozenset(objects.read_json(objects.join(uri, "summary.json")).get("unread", ()))
            continue
        todo = missing(plan, done_parts(uri))
        if todo:
            print(f"note: {len(todo)} of {len(plan.parts)} parts of {uri} are not done; what they hold is left to that job: run it again")
    if run is not None and (plans[since_uri].identity.get("run") or {}).get("content") != run["content"]:
        raise PlanMismatch(f"{since_uri} holds no scores of {run['uri']}: only a table of the same run can be continued")
    shards = held(plans, unread)
    return shards, {"uri": since_uri, "held": short_hash(sorted([key, *facts] for key, facts in shards.items()))}


def superseded(plans: Mapping[str, Plan]) -> dict[str, frozenset[str]]:
    """By URI, the shards of each table that a later one of them holds in another version; tables without any are left out.

    Where a shard was corrected, its later records count. Later is what continued a table, in a line of which none is missing here.
    """
    by_uri, found = {uri.rstrip("/"): plan for uri, plan in plans.items()}, dict[str, frozenset[str]]()
    for plan in plans.values():
        shards, uri, seen = frozenset(plan.changed), _since(plan), set[str]()
        while shards and uri in by_uri and uri not in seen:
            seen.add(uri)
            found[uri] = found.get(uri, frozenset()) | shards
            uri = _since(by_uri[uri])
    return found


def _since(plan: Plan) -> str | None:
    uri = (plan.identity.get("since") or {}).get("uri")
    return None if uri is None else str(uri).rstrip("/")
