"""What the whole line says of a small fleet, as digests: two versions of vibray that should say the same are compared by them.

  python -m tests.reference.same_numbers FOLDER            runs the line there (some 20 minutes), writes FOLDER/numbers.json
  python -m tests.reference.same_numbers FOLDER OTHER      names what differs between the two, exit code 1 where something does

Run it in the other version's checkout for its numbers; it uses the jobs' command lines alone, one worker, one thread, one search trial at a
time. Every float counts to its last bit: scores, calibrations, cuts, pseudo-labels, windows of units, evaluations, benchmark cells, trials.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RECIPES: dict[str, list[str]] = {
    "fused": ["fused"],
    "mahalanobis": ["mahalanobis"],
    "banded": ["banded"],
    "rms": ["rms"],
    "iforest": ["iforest"],
    "knn": ["knn"],
    "local-knn": ["local-knn"],
    "pca": ["pca"],
    "movement": ["movement"],
    "zerone-mahalanobis": ["zerone-mahalanobis"],
    "harmonic-mahalanobis": ["harmonic-mahalanobis"],
    "baselines": ["baselines"],
    "cwt-svdd": ["cwt-svdd", "--optim.epochs", "3"],
    "deep-sad": ["deep-sad", "--optim.epochs", "3"],
    "cwt-vae": ["cwt-vae", "--optim.epochs", "2"],
    "ensemble": ["small-ensemble"],
    "normals-only": ["mahalanobis"],
}
"""A run each, by what is written behind the job's arguments."""

FACTS = ["--sample-rate-hz", "8192", "--unit-pattern", r"^(u\d+)-"]

CUTS = {
    "mad": ["mad", "--anomaly", "2"],
    "percentile": ["percentile"],
    "by-unit": ["--by", "unit", "--min-group-records", "20", "percentile"],
}
CUTS |= {"pooled": ["--pool-sensors", "mad", "--anomaly", "2"], "conformal": ["conformal", "--q", "0.1"]}

TIMES = ("seconds", "wall", "whole", "records_per_s", "overhead", "time", "evaluation", "training", "waiting")
PLACES = ("uri", "run", "config", "recipe", "hash", "environment", "features", "content", "calibration", "run_uri")
"""Fields that say where or how fast, not what."""

FILES, FOLDERS = ("cuts.json", "unit_alarms.json", "agreement.json", "winner.json"), ("evaluations", "benchmark", "search")

UNSAID = ("_done.json", "plan.json", "recipe.json", "environment.json", "numbers.json", "grid.json", "search.json", "search_summary.json")
UNSAID += ("benchmark.json",)


class Line:
    """The jobs, run in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}

    def at(self, *names: str) -> str:
        return str(self.folder.joinpath(*names))

    def job(self, verb: str, *arguments: str) -> None:
        begun = time.monotonic()
        command = [sys.executable, f"jobs/{verb}.py", *arguments]
        log = self.folder / "commands.txt"
        if log.exists() and repr(command[1:]) in log.read_text().splitlines():
            return
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        print(f"{time.monotonic() - begun:6.1f} s  {verb} {' '.join(arguments[-6:])}", flush=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        with log.open("a") as file:
            print(repr(command[1:]), file=file)

    def run(self) -> None:
        """Every stage; a command that came to its end before is not given again."""
        self._tables()
        self._detectors()
        labels = self.at("labels", "labelled.jsonl")
        self.job("label", "--scores", self.at("scores", "ensemble"), "--decisions", self.at("decisions", "ensemble"), "percentile")
        both = [self.at("features", name) for name in ("pool", "labelled")]
        start = ["--pseudo-labels", self.at("decisions", "ensemble"), "--init-from", self.at("runs", "ensemble")]
        small = ["cwt-classifier", "--optim.epochs", "4"]
        self.job("train", "--features", *both, "--run", self.at("runs", "classifier"), "--labels", labels, *start, *small)
        self.score("classifier", "test", "test-classifier")
        for name, arguments in CUTS.items():
            pool = [] if name == "conformal" else ["--scores", self.at("scores", "fused")]
            known = ["--scores", self.at("scores", "fused"), "--labels", self.at("labels", "pool.jsonl")] if not pool else []
            self.job("label", *pool, *known, "--decisions", self.at("decisions", name), *arguments)
        for name in ("fused", "ensemble", "classifier"):
            extra = ["--decisions", self.at("decisions", "mad")] if name == "fused" else []
            if name == "ensemble":
                extra = ["--decisions", self.at("decisions", "ensemble")]
            where = ["--scores", self.at("scores", f"test-{name}"), "--output", self.at("evaluations", f"{name}.json")]
            self.job("evaluate", *where, "--labels", self.at("labels", "test.jsonl"), *extra)
        self._new_machines()
        cells = ["--recipes", "fused", "knn", "cwt-svdd", "deep-sad", "cwt-vae", "small-ensemble", "zerone-classifier"]
        grid = ["--small", "--epochs", "2", "--num-folds", "2", "--seeds", "1", "--contamination", "0.05", "--label-budgets", "0", "20"]
        few = ["--calibration-records", "10"]
        self.job("benchmark", "--features", both[1], "--labels", labels, "--benchmark", self.at("benchmark"), *grid, *few, *cells)
        searched = ["--num-trials", "4", "--max-concurrent-trials", "1", "--num-folds", "2", "--calibration-records", "10"]
        for name, recipe in {"svdd": ["cwt-svdd", "--optim.epochs", "3"], "fused": ["fused"]}.items():
            self.job("search", "--features", *both, "--labels", labels, "--search", self.at("search", name), *searched, *recipe)

    def score(self, run: str, corpus: str, scores: str, *more: str) -> None:
        where = ["--input", self.at("raw", corpus), "--scores", self.at("scores", scores), "--sample-rate-hz", "8192"]
        self.job("score", "--run", self.at("runs", run), *where, *more)

    def _tables(self) -> None:
        fleets = {
            "pool": (36, 0, "0.05", 0, 6),
            "labelled": (16, 36, "0.5", 0, 6),
            "test": (10, 52, "0.5", 0, 6),
            "new": (24, 0, "0.2", 40, 2),
        }
        for name, (steps, first, share, first_unit, units) in fleets.items():
            size = ["--num-records", str(steps * units * 2), "--num-units", str(units), "--sensors-per-unit", "2"]
            place = ["--first-step", str(first), "--first-unit", str(first_unit), "--contamination", share]
            broken = ["--broken-share", "0.05"] if name == "pool" else []
            where = ["--output", self.at("raw", name), "--labels", self.at("labels", f"{name}.jsonl"), "--shard-records", "150"]
            self.job("synthesize", *where, *size, *place, *broken)
        for name in ("pool", "labelled"):
            self.job("featurize", "--input", self.at("raw", name), "--features", self.at("features", name), *FACTS)

    def _detectors(self) -> None:
        for name, recipe in RECIPES.items():
            inputs, more = [self.at("features", "pool")], []
            if name in ("deep-sad", "normals-only"):
                inputs.append(self.at("features", "labelled"))
                more = ["--labels", self.at("labels", "labelled.jsonl")] + ["--normals-only"] * (name == "normals-only")
            self.job("train", "--features", *inputs, "--run", self.at("runs", name), *more, *recipe)
            self.score(name, "test", f"test-{name}")
        for name in ("fused", "ensemble"):
            self.score(name, "pool", name)

    def _new_machines(self) -> None:
        """Sensors that training did not see."""
        for name in ("fused", "baselines"):
            where = ["--input", self.at("raw", "new"), "--calibration", self.at("calibrations", name), "--sample-rate-hz", "8192"]
            self.job("calibrate", "--run", self.at("runs", name), *where, "--records-per-sensor", "20")
            self.score(name, "new", f"new-{name}", "--calibration", self.at("calibrations", name))


def numbers(folder: Path) -> dict[str, Any]:
    """A digest by name of each thing that the line said."""
    found: dict[str, Any] = {}
    tables: dict[str, list[pa.Table]] = {}
    for path in sorted(folder.rglob("*")):
        name, parts = path.relative_to(folder).as_posix(), path.relative_to(folder).parts
        if not path.is_file() or {"checkpoints", "_done", "ray", "bad"} & set(parts) or path.name in UNSAID:
            continue
        if path.suffix == ".parquet":  # the parts of a table bear hashes of the input's times: their rows are put together and sorted
            tables.setdefault(name if parts[0] in ("decisions", "calibrations") else str(Path(name).parent), []).append(pq.read_table(path))
        elif path.suffix == ".json" and (path.name in FILES or parts[0] in FOLDERS):
            found[name] = _said(json.loads(path.read_text()))
            if parts[0] == "evaluations":
                found[name].pop("identity")  # as those of cuts.json
            if path.name == "cuts.json":
                found[name].pop("scores")  # names of the content, and so of the parts
        elif path.name == "metrics.jsonl":
            found[name] = [_said(json.loads(line)) for line in path.read_text().splitlines()]
    for name, those in tables.items():
        table = pa.concat_tables(those)
        if "record_id" in table.column_names:
            table = table.sort_by("record_id")
        for column in table.column_names:
            found[f"{name}:{column}"] = hashlib.blake2b(repr(table[column].to_pylist()).encode(), digest_size=8).hexdigest()
    return found


def _said(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _said(value) for key, value in values.items() if key not in (*TIMES, *PLACES)}
    return [_said(value) for value in values] if isinstance(values, list) else values


def main(folder: Path, other: Path | None) -> None:
    if other is None:
        folder.mkdir(parents=True, exist_ok=True)
        Line(folder.absolute()).run()
        found = numbers(folder)
        (folder / "numbers.json").write_text(json.dumps(found, indent=1))
        print(f"{len(found)} numbers in {folder / 'numbers.json'}")
        return
    ours, theirs = (json.loads((where / "numbers.json").read_text()) for where in (folder, other))
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    print("\n".join(differing))
    print(f"{len(ours.keys() & theirs.keys()) - len([n for n in differing if n in ours and n in theirs])} alike, {len(differing)} differ")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
