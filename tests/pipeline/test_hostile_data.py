"""What a stranger wrote into records and run folders: text is text, never a path, never markup, never code."""

import ast
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, START, corpus_fields, waveform
from vibray import runs
from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, LabelJob, ReportJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part, finish_folder, make_plan, read_shard, start_plan
from vibray.storage.plan import read_plan

ROOT = Path(__file__).parents[2]

SCRIPT = "<script>alert('evil')</script>"
SENSORS = (
    "../../../../tmp/evil",
    "/tmp/evil/x",
    "..\\..\\evil",
    "evil\0nul",
    SCRIPT,
    "%2e%2e%2fevil",
    'evil\n"line"',
)

KNOWN = re.compile(
    r"(features|scores|decisions)/((\w+/)?part-[0-9a-f]{12}(-\d+)?\.[0-9a-f]{8}\.parquet|_done/[0-9a-f]{12}(-\d+)?\.json|(plan|feature|summary)\.json)"
    r"|decisions/[a-z_]+\.(json|parquet|npz|png)|run/[a-z_]+\.(json|jsonl|safetensors)|report/index\.(html|(unit_|no_)?alarms?\.csv)"
)


@pytest.fixture(scope="module")
def line(tmp_path_factory, local_ray) -> Path:
    """Every stage over records of hostile sensors: no unit pattern, so that units are as hostile."""
    folder = tmp_path_factory.mktemp("hostile") / "here"
    rng = np.random.default_rng(0)
    lines = []
    for i in range(len(SENSORS) * 24):
        values = ",".join(f"{v:.5g}" for v in waveform(rng, 0, fault=i % 40 == 39))
        time = START.replace(day=1 + i // 24 % 28, hour=i % 24).isoformat()
        lines.append(json.dumps({"sensor_id": SENSORS[i % len(SENSORS)], "data_time": time, "signal_value": values}))
    lines.insert(5, json.dumps({"sensor_id": SCRIPT, "data_time": SCRIPT, "signal_value": "1"}))
    lines.insert(9, SCRIPT)
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / f"{SCRIPT.replace('/', '_')}.jsonl").write_text("\n".join(lines) + "\n")
    facts = CorpusFacts(RATE_HZ, FACTS.num_samples)
    where = {name: str(folder / name) for name in ("raw", "features", "run", "scores", "decisions")}
    featurize(FeaturizeJob(where["raw"], where["features"], **corpus_fields(facts)))
    train(TrainJob((where["features"],), where["run"], banded()))
    score(ScoreJob(where["run"], where["raw"], where["scores"], sample_rate_hz=RATE_HZ))
    label(LabelJob((where["scores"],), where["decisions"], method=PercentileConfig()))
    report(ReportJob((where["scores"],), str(folder / "report" / "index.html"), where["decisions"]))
    return folder


def test_records_came_through_and_named_no_file(line):
    table = Parts(str(line / "scores")).read(["sensor_id", "unit"])
    assert set(table["sensor_id"].to_pylist()) == set(table["unit"].to_pylist()) == set(SENSORS)
    assert Parts(str(line / "scores")).reasons == {"not JSON": 1, "bad time": 1}
    written = [str(path.relative_to(line)) for path in line.rglob("*") if path.is_file() and path.parent != line / "raw"]
    assert len(written) > 15
    assert [name for name in written if not KNOWN.fullmatch(name)] == []
    assert [path.name for path in line.parent.iterdir()] == ["here"]
    assert not Path("/tmp/evil").exists()


def test_markup_in_data_is_text_in_the_report(line):
    html = (line / "report" / "index.html").read_text()
    assert "alert(" in html  # it is shown
    assert not re.search(r"<script[^>]*>\s*alert", html)
    assert SCRIPT not in html
    assert "&lt;script&gt;alert" in html


def test_keys_of_an_archive_are_no_paths(bucket, tmp_path, facts):
    name = bucket.removeprefix("s3://")
    from vibray.storage import s3

    good = json.dumps({"sensor_id": "s", "data_time": "2024-01-01T00:00:00Z", "signal_value": "1,2,3,4"}).encode()
    # a name that begins with a point is hidden, as in any listing: it is left alone
    for key in ("raw/../../evil.jsonl", "raw//tmp/evil.jsonl", "raw/x/%2e%2e%2fevil.jsonl", "raw/C:\\evil.jsonl"):
        s3.client().put_object(Bucket=name, Key=key, Body=good)
    out = tmp_path / "a" / "scores"
    plan = start_plan(str(out), lambda: make_plan(f"{bucket}/raw", "c", {}), {})
    for part in plan.parts:
        for read in read_shard(part, facts, "c", plan.base_uri):
            commit_part(str(out), read.part_id, {"": read.records, "bad": read.bad}, read.marker)
    assert Parts(str(out)).total("num_kept") == len(plan.parts) == 3
    names = [path.relative_to(tmp_path / "a").as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) == 7
    assert all(KNOWN.fullmatch(name) for name in names)


@pytest.fixture
def facts():
    return CorpusFacts(1000.0, 4)


def test_a_plan_whose_ids_are_paths_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text("{}\n")
    start_plan(str(tmp_path / "out"), lambda: make_plan(str(tmp_path / "raw"), "c", {}), {})
    plan = tmp_path / "out" / "plan.json"
    values = json.loads(plan.read_text())
    for change in ({"id": "../../evil"}, {"key": "b.jsonl"}, {"start": 1}, {"etag": "x"}):
        plan.write_text(json.dumps({**values, "parts": [{**values["parts"][0], **change}]}))
        with pytest.raises(UserError, match="was changed since it was written"):
            read_plan(str(tmp_path / "out"))


def test_one_wrong_byte_in_any_file_of_a_run_is_named(line, tmp_path):
    names = sorted(path.name for path in (line / "run").iterdir())
    assert "model.safetensors" in names and "recipe.json" in names
    for name in names:
        run = tmp_path / name
        run.mkdir()
        for path in (line / "run").iterdir():
            (run / path.name).write_bytes(path.read_bytes())
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run / name).write_bytes(data)
        with pytest.raises(
            ValueError, match=r"is not the file that was written|is not a whole JSON|made by|does not fit|_done\.json"
        ) as error:
            runs.load(str(run))
        assert name in str(error.value) or name == "_done.json"


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/vibray-evil-unpickled"),)


def test_a_pickle_in_the_place_of_weights_is_not_unpickled(line, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for path in (line / "run").iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    (run / "model.safetensors").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match=r"model\.safetensors is not the file"):
        runs.load(str(run))
    files = objects.read_json(str(run / "_done.json"))["files"]
    finish_folder(str(run), files, {"members": []})  # as one who may write checksums, too
    with pytest.raises(UserError, match=r"(?i)header|safetensor"):
        runs.load(str(run))
    assert not Path("/tmp/vibray-evil-unpickled").exists()


def test_nothing_in_vibray_unpickles():
    """No module that does it by itself, no loader that may."""
    found = []
    for path in [*(ROOT / "vibray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                (path.name, name)
                for name in names
                if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
            ]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                allowed = any(k.arg == "allow_pickle" and getattr(k.value, "value", None) is False for k in node.keywords)
                found += [(path.name, f"{of}.load")] if of in ("torch", "np", "numpy") and not allowed else []
            if isinstance(node, ast.Call):
                found += [
                    (path.name, "allow_pickle")
                    for k in node.keywords
                    if k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False
                ]
    assert found == []
