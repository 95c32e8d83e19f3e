"""The whole line on a generated fleet: what a newcomer runs first, and what a test runs to see that every stage meets the next."""

import contextlib
import logging
import os
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import s3fs

from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.fitting.jobs import TrainJob
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.models.vae import VaeConfig
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import DemoJob, EvaluateJob, FeaturizeJob, LabelJob, ReportJob, ScoreJob, SynthesizeJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.synthesize import synthesize
from vibray.pipeline.train import train
from vibray.recipes import baselines, classifier, cwt_svdd, cwt_vae, ensemble, fused, small
from vibray.recipes.kinds import DeepRecipe, EnsembleRecipe
from vibray.report.files import ReportFiles, report_files
from vibray.signal.synthetic import FleetConfig
from vibray.storage import objects
from vibray.storage.parts import Parts
from vibray.tables.decisions import read_cuts

RATE_HZ, UNITS = 8192.0, r"^(u\d+)-"

REPORT = ("report", "index.html")

RUNS = ("default", "ensemble", "baselines", "classifier")

STEPS = (32, 5, 14)
"""Records of each sensor in the pool, among the labelled and in the test set, one after the other in time."""


@dataclass
class Clock:
    """Wall-clock of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def demo(job: DemoJob) -> dict[str, Any]:
    """Generates three corpora of one fleet and runs every stage on them. Returns the figures of the closing table."""
    from vibray.pipeline import session

    copy = report_files(objects.join(objects.absolute(job.folder), *REPORT)) if job.s3 else None
    if copy is not None and objects.exists(copy.page):
        raise UserError(f"{copy.page} stands already, and --s3 copies its report there: use another --folder, or remove it")
    with local_s3() if job.s3 else contextlib.nullcontext() as bucket, session.started():
        folder = objects.absolute(job.folder) if bucket is None else objects.join(bucket, job.folder)
        return _demo(job, folder, copy)


def _demo(job: DemoJob, folder: str, copy: ReportFiles | None) -> dict[str, Any]:
    clock = Clock()

    def at(*names: str) -> str:
        return objects.join(folder, *names)

    with clock.stage("synthesize"):
        write_corpora(folder, job.num_units, job.sensors_per_unit)
    with clock.stage("featurize"):
        for name in ("pool", "labelled"):
            featurize(FeaturizeJob(at("raw", name), at("features", name), RATE_HZ, name, unit_pattern=UNITS, signal_unit="g"))
    pool = (at("features", "pool"),)
    with clock.stage("train the default, Deep SVDD and VAE, and the simple baselines"):
        train(TrainJob(pool, at("runs", "default"), fused()))
        train(TrainJob(pool, at("runs", "ensemble"), small_ensemble(job.epochs)))
        train(TrainJob(pool, at("runs", "baselines"), baselines()))
    with clock.stage("score the pool"):
        for run in ("default", "ensemble"):
            score(ScoreJob(at("runs", run), at("raw", "pool"), at("scores", f"pool-{run}"), RATE_HZ, "pool"))
    with clock.stage("label"):
        for run in ("default", "ensemble"):
            label(LabelJob((at("scores", f"pool-{run}"),), at("decisions", run), method=PercentileConfig(anomaly=97.0)))
    with clock.stage("train the classifier"):
        features = (*pool, at("features", "labelled"))
        train(TrainJob(features, at("runs", "classifier"), classifier(), labels=at("labels", "labelled.jsonl")))
        score(ScoreJob(at("runs", "classifier"), at("raw", "pool"), at("scores", "pool-classifier"), RATE_HZ, "pool"))
        label(LabelJob((at("scores", "pool-classifier"),), at("decisions", "classifier"), method=PercentileConfig(anomaly=97.0)))
    figures = {}
    with clock.stage("score and diagnose the test set"):
        for run in RUNS:
            score(ScoreJob(at("runs", run), at("raw", "test"), at("scores", f"test-{run}"), RATE_HZ))
    with clock.stage("evaluate"):
        for run in RUNS:
            decisions = None if run == "baselines" else at("decisions", run)
            figures[run] = evaluate(EvaluateJob((at("scores", f"test-{run}"),), at("labels", "test.jsonl"), decisions))
    with clock.stage("report"):
        tables, report_uri = (at("scores", "test-classifier"),), at(*REPORT)
        report(ReportJob(tables, report_uri, at("decisions", "classifier"), at("labels", "test.jsonl"), "vibray demo: the test set"))
        if copy is not None:  # what lies on the demo's own endpoint ends with it
            made = report_files(report_uri)
            for there, here in zip((made.page, *made.tables), (copy.page, *copy.tables), strict=True):
                if objects.exists(there):
                    objects.write_bytes(here, objects.read_bytes(there), exclusive=True)
            report_uri = copy.page
    figures |= {"seconds": clock.seconds, "report": report_uri}
    print_table(folder, figures)
    return figures


def write_corpora(folder: str, num_units: int, sensors_per_unit: int) -> None:
    """Pool, labelled and test records of the same machines; the pool has broken lines of every kind."""
    a_step, step = num_units * sensors_per_unit, 0
    for name, steps in zip(("pool", "labelled", "test"), STEPS, strict=True):
        fleet = FleetConfig(steps * a_step, num_units, sensors_per_unit, first_step=step, contamination=0.05 if name == "pool" else 0.5)
        pool = name == "pool"
        if pool:
            fleet = replace(fleet, broken_share=0.045, long_line=True)
        where = objects.join(folder, "raw", name), objects.join(folder, "labels", f"{name}.jsonl")
        synthesize(SynthesizeJob(*where, fleet, shard_records=128, compression="none" if pool else "gz", truncated_shard=pool))
        step += steps


def small_ensemble(epochs: int) -> EnsembleRecipe:
    """Deep SVDD and VAE on small images with a narrow trunk: minutes on two cores, and no measure of what the recipes can do."""
    members = {"svdd": small(cwt_svdd(), epochs), "vae": small(cwt_vae(), epochs)}
    for name, member in members.items():
        assert isinstance(member, DeepRecipe) and isinstance(member.detector, DeepSvddConfig | VaeConfig)
        members[name] = replace(member, pretrain=replace(member.pretrain, epochs=min(member.pretrain.epochs, max(1, epochs // 3))))
    return replace(ensemble(), members=members)


def print_table(folder: str, figures: dict[str, Any]) -> None:
    """What came out, on one screen."""
    parts = Parts(objects.join(folder, "scores", "pool-default"))
    cuts = read_cuts(objects.join(folder, "decisions", "default")).overall
    labels = objects.read_table(objects.join(folder, "decisions", "default", "pseudo_labels.parquet"))["label"].to_pandas().value_counts()
    default, ensemble, baselines, named = (figures[run] for run in RUNS)
    aside = ", ".join(f"{count} {reason}".replace(" ", "\xa0") for reason, count in sorted(parts.reasons.items()))
    rows = [
        ("records read", f"{parts.total('num_read')} = {parts.total('num_kept')} kept + {parts.total('num_bad')} set aside"),
        ("  set aside", aside),
        ("cuts of the default", f"normal <= {cuts.normal_below:.4g}, anomaly >= {cuts.anomaly_above:.4g} ({cuts.method})"),
        ("  pseudo-labels", f"{labels.get(0, 0)} normal, {labels.get(1, 0)} abnormal, {labels.get(-1, 0)} undecided"),
    ]
    areas = [
        (
            "default (fused)",
            default["auroc"],
            "four descriptions of the spectrum by its sensor's past, and a net taught on other fleets",
        ),
        ("  over sensors", (default["over_sensors"] or default)["auroc"], "the same, mean over a unit's sensors at one time"),
        ("RMS", baselines["auroc_by_member"]["rms"], "control: how strong the vibration is, nothing else"),
        ("Isolation Forest", baselines["auroc_by_member"]["iforest"], "control: 15 statistics of the waveform"),
        ("Mahalanobis", baselines["auroc_by_member"]["mahalanobis"], "64 log bands by sensor, trimmed"),
        ("Deep SVDD", ensemble["auroc_by_member"]["svdd"], "net on CWT images, seconds of training"),
        ("VAE", ensemble["auroc_by_member"]["vae"], "net on CWT images, seconds of training"),
        ("Deep SVDD + VAE", ensemble["auroc"], "both, .6 and .4"),
        ("classifier", named["auroc"], f"80 labels; macro-F1 over the faults {named['macro_f1']:.3f}"),
    ]
    print()
    for what, figure in rows:
        print(textwrap.fill(f"{what:<22}{figure}", 100, subsequent_indent=" " * 22, break_on_hyphens=False).replace("\xa0", " "))
    print(f"\nAUROC on the test set, {default['counts']['labelled']} records, half of them faulty:")
    for name, area, words in areas:
        print(f"{name:<22}{area:.3f}  {words}")
    print(f"\n{'seconds':<22}{', '.join(f'{name} {seconds:.0f}' for name, seconds in figures['seconds'].items())}")
    print(f"{'report':<22}{figures['report']}")


@contextlib.contextmanager
def local_s3(bucket: str = "vibray-demo") -> Iterator[str]:
    """The URI of an empty bucket on an S3 endpoint over HTTP on this machine's loopback; the AWS variables point there meanwhile.

    Raises UserError where the package that serves it is not installed.
    """
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise UserError("--s3 needs a local S3 server: pip install -e '.[test]'") from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request would bury the demo's own
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
