"""Many recipes on one corpus with labels: the cost, the cells on Ray, the folder that remembers them, the tables."""

import json
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from vibray.compare.cells import Contestant, is_deep, run_cell
from vibray.compare.corpus import Corpus, with_values
from vibray.compare.cost import Cost, cell_seconds, hours
from vibray.compare.grid import (
    BenchmarkError,
    Cell,
    Entry,
    cells_of,
    checked,
    contestants,
    describe,
    labelled_corpus,
    needs_waveforms,
    vectors_needed,
)
from vibray.compare.jobs import BenchmarkJob
from vibray.config import environment, to_json
from vibray.decide.splits import Setting
from vibray.pipeline import session
from vibray.pipeline.logs import Progress
from vibray.report.benchmark import document, fault_table, main_table, standings, sweep_table
from vibray.report.benchmark_figure import benchmark_png
from vibray.storage import objects
from vibray.storage.parts import Parts, finish_folder, identity_hash
from vibray.storage.plan import begin_folder, check_begun

ANOTHER = "with another grid"

RESULTS = ("benchmark.json", "benchmark.md", "benchmark.png")


def benchmark(job: BenchmarkJob) -> None:
    """Runs the stage; see jobs/benchmark.py. Raises BenchmarkError at the end where cells failed; all others are kept."""
    job = checked(job)
    entries = contestants(job)
    cells = cells_of(job, entries)
    grid = _grid(job, entries)
    check_begun(job.benchmark, "grid.json", grid, ANOTHER, BenchmarkError)
    if objects.exists(objects.join(job.benchmark, "_done.json")) and not objects.exists(objects.join(job.benchmark, "grid.json")):
        raise BenchmarkError(f"{job.benchmark} is another job's folder (it is finished and holds no grid.json): use another folder")
    corpus, facts = labelled_corpus(job, entries)
    facts = [*facts, *describe(job, corpus), *(f"found: {finding.text}" for finding in corpus.table.findings)]
    print("\n".join(facts))
    done = _finished(job.benchmark, cells)
    todo = [cell for cell in cells if cell.name not in done]
    print(f"{len(cells):,} cells of {len(entries)} recipes, {len(done):,} of them done")
    if todo:
        corpus = _read(corpus, entries)
        if job.dry_run:
            _cost(job, todo, done, entries, lambda wanted: [(c, _seconds(corpus, entries[c.recipe].recipe, c.setting)) for c in wanted])
        else:
            with session.started():
                _run(job, grid, corpus, entries, todo, done)
    if job.dry_run:
        print("dry run: nothing was written")
        return
    _conclude(job, entries, cells, facts)


# ---------------------------------------------------------------- the folder


def _grid(job: BenchmarkJob, entries: dict[str, Entry]) -> dict[str, Any]:
    """What decides whether two commands are one benchmark."""
    return json.loads(
        json.dumps(
            {
                "features": [{"uri": uri, "content": identity_hash([Parts(uri)])} for uri in job.features],
                "labels": objects.sha256(objects.read_bytes(job.labels)),
                "recipes": {name: {"control": e.control, "config": to_json(e.recipe)} for name, e in entries.items()},
                "num_folds": job.num_folds,
                "seeds": job.seeds,
                "contamination": list(job.contamination),
                "main_contamination": job.main_contamination,
                "label_budgets": list(job.label_budgets),
                "calibration_records": job.calibration_records,
                "unlabelled_pool": job.unlabelled_pool,
            }
        )
    )


def _cell_uri(uri: str, cell: Cell, folder: str = "cells") -> str:
    return objects.join(uri, folder, f"{cell.name}.json")


def _finished(uri: str, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """The cells of the folder by name. Each was written whole, and one that failed stands elsewhere and is tried again."""
    try:
        there = {info.key.removesuffix(".json") for info in objects.list_objects(objects.join(uri, "cells"))}
    except FileNotFoundError:
        return {}
    return {cell.name: objects.read_json(_cell_uri(uri, cell)) for cell in cells if cell.name in there}


def _failures(uri: str, cells: Sequence[Cell]) -> list[str]:
    found = [(cell, objects.join(uri, "failed", f"{cell.name}.json")) for cell in cells]
    errors = [(cell, objects.read_json(name)["error"]) for cell, name in found if objects.exists(name)]
    return [f"{cell.name}: {error['type']}: {error['message']}" for cell, error in errors]


# ---------------------------------------------------------------- cells


def _read(corpus: Corpus, entries: dict[str, Entry]) -> Corpus:
    """The corpus in memory."""
    vectors, waveforms = vectors_needed(entries), needs_waveforms(entries)
    with Progress("read", len(set(corpus.table.part.tolist())) * (len(vectors) + waveforms), "parts") as progress:
        corpus = with_values(corpus, vectors, waveforms, lambda done, _: progress.at(done))
    num_bytes = corpus.waveforms.nbytes + sum(values.nbytes for values in corpus.vectors.values())
    print(f"  in memory: {num_bytes / 2**20:,.1f} MiB a node ({', '.join([*vectors, *['waveforms'] * waveforms])})")
    return corpus


def _run(
    job: BenchmarkJob, grid: dict[str, Any], corpus: Corpus, entries: dict[str, Entry], todo: list[Cell], done: dict[str, dict[str, Any]]
) -> None:
    shared = ray.put(corpus)
    _cost(job, todo, done, entries, lambda wanted: list(_on_ray(shared, entries, wanted, _seconds)))
    begin_folder(job.benchmark, "grid.json", grid, ANOTHER, BenchmarkError)
    num_failed = 0
    with Progress("benchmark", len(todo), "cells") as progress:
        for cell, result in _on_ray(shared, entries, todo, _result):
            failed = _cell_uri(job.benchmark, cell, "failed")
            own = {"recipe": cell.recipe, "control": entries[cell.recipe].control, **result}
            if "error" in result:
                num_failed += 1
                objects.write_json(failed, {**own, "setting": to_json(cell.setting)})
            else:
                objects.write_json(_cell_uri(job.benchmark, cell), own, exclusive=True)
                objects.remove([failed])
            progress.add(1, failed=num_failed)


def _on_ray(shared: Any, entries: dict[str, Entry], cells: Sequence[Cell], work: Callable[..., Any]) -> Iterator[tuple[Cell, Any]]:
    """`work` done for each cell, one task each, in the order in which they end; a task that was lost is an error of its cell."""
    gpu = session.num_gpus() > 0
    waiting: dict[Any, Cell] = {}
    queue = list(reversed(cells))
    while queue or waiting:
        while queue and len(waiting) < 2 * (session.num_cpus() + session.num_gpus()):
            cell = queue.pop()
            recipe = entries[cell.recipe].recipe
            task: Any = ray.remote(num_cpus=1, num_gpus=1 if gpu and is_deep(recipe) else 0, max_retries=1)(work)
            waiting[task.remote(shared, recipe, cell.setting)] = cell
        ready, _ = ray.wait(list(waiting), num_returns=1)
        for reference in ready:
            cell = waiting.pop(reference)
            try:
                yield cell, ray.get(reference)
            except RayError as error:
                yield cell, _error(error)


def _error(error: Exception) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": (str(error).strip() or type(error).__name__)[:2000]}}


def _result(corpus: Corpus, recipe: Contestant, setting: Setting) -> dict[str, Any]:
    """A cell, or what went wrong in it: one that fails does not stop the others."""
    torch.set_num_threads(1)
    try:
        return run_cell(corpus, recipe, setting)
    except Exception as error:
        return _error(error)


def _seconds(corpus: Corpus, recipe: Contestant, setting: Setting) -> dict[str, Any]:
    try:
        return {"seconds": cell_seconds(corpus, recipe, setting)}
    except Exception as error:
        return _error(error)


def _cost(
    job: BenchmarkJob,
    todo: Sequence[Cell],
    done: dict[str, dict[str, Any]],
    entries: dict[str, Entry],
    measure: Callable[[Sequence[Cell]], list[tuple[Cell, dict[str, Any]]]],
) -> None:
    """Prints what is left to do and how long it takes, by cells that are done or a trial. Raises BenchmarkError beyond --max-hours."""
    first = {cell.recipe: cell for cell in reversed(todo)}
    known = {name: [own["seconds"] for own in done.values() if own["recipe"] == name] for name in first}
    trials = [cell for name, cell in first.items() if not known[name]]
    if trials:
        print(f"timing one cell of {len(trials)} recipes (a few steps of a net)")
    tried = {cell.recipe: found for cell, found in measure(trials)} if trials else {}
    num_gpus = 0 if job.dry_run else session.num_gpus()
    costs = []
    for name in first:
        found = tried.get(name, {"seconds": median(known[name])} if known[name] else {})
        error = "{type}: {message}".format(**found["error"]) if "error" in found else ""
        on_gpu = num_gpus > 0 and is_deep(entries[name].recipe)
        count = sum(cell.recipe == name for cell in todo)
        costs.append(Cost(name, count, found.get("seconds"), on_gpu, error.split("\n")[0]))
    num_cpus = 1 if job.dry_run else session.num_cpus()
    total = hours(costs, num_cpus, num_gpus)
    print("\n".join(f"  {cost}" for cost in costs))
    where = "on one core of this machine" if job.dry_run else f"on {num_cpus} cores and {num_gpus} GPUs"
    print(f"about {total:.2f} hours {where}")
    if job.max_hours is not None and total > job.max_hours:
        raise BenchmarkError(
            f"that is more than --max-hours {job.max_hours:g}: fewer --recipes, --seeds or --contamination, --small nets, or more cores"
        )


# ---------------------------------------------------------------- the end


def _conclude(job: BenchmarkJob, entries: dict[str, Entry], cells: Sequence[Cell], facts: Sequence[str]) -> None:
    done = _finished(job.benchmark, cells)
    failed = _failures(job.benchmark, [cell for cell in cells if cell.name not in done])
    assert job.main_contamination is not None
    if done:
        rows = standings([done[cell.name] for cell in cells if cell.name in done])
        without = sorted({own["recipe"] for own in done.values() if own["sizes"]["uncalibrated"]})
        if without:
            facts = [
                *facts,
                f"warning: no record calibrates some sensors; against the fleet's baseline, no alarms: {', '.join(without)}",
            ]
            print(facts[-1])
        shown = [main_table(rows, job.main_contamination), fault_table(rows, job.main_contamination), sweep_table(rows)]
        _write(job, rows, [done[cell.name] for cell in cells if cell.name in done], facts, failed)
        print("\n\n".join(["", *shown]) + "\n")
    if failed:
        more = f"\n  and {len(failed) - 5} more, in failed/" if len(failed) > 5 else ""
        lines = "\n".join(f"  {line}" for line in failed[:5])
        raise BenchmarkError(f"{len(failed)} of {len(cells)} cells failed; the same command tries them again:\n{lines}{more}")
    finish_folder(job.benchmark, ["grid.json", *RESULTS])
    print(f"{job.benchmark} is finished: {', '.join(RESULTS)}")


def _write(job: BenchmarkJob, rows: list[dict[str, Any]], cells: list[dict[str, Any]], facts: Sequence[str], failed: Sequence[str]) -> None:
    assert job.main_contamination is not None
    values = {"environment": environment(), "facts": list(facts), "standings": rows, "failed": list(failed), "cells": cells}
    objects.write_json(objects.join(job.benchmark, "benchmark.json"), values)
    text = document(rows, job.main_contamination, facts, failed)
    objects.write_bytes(objects.join(job.benchmark, "benchmark.md"), text.encode())
    objects.write_bytes(objects.join(job.benchmark, "benchmark.png"), benchmark_png(rows, job.main_contamination))
