"""The whole line on a generated fleet: what a newcomer runs first, and what a test runs to see that every stage meets the next."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import s3fs

from vibray.decide.thresholds import PercentileConfig
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.models.vae import VaeConfig
from vibray.pipeline.decisions import label, overall_of, read_cuts
from vibray.pipeline.evaluation import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.reporting import report
from vibray.pipeline.scoring import score
from vibray.pipeline.synthesis import synthesize
from vibray.pipeline.training import TrainingJob, train
from vibray.recipes import ClassifierRecipe, DeepRecipe, EnsembleRecipe, baselines, cwt_svdd, cwt_vae, ensemble, small, union_classifier
from vibray.signal.synthetic import FleetConfig
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts

FACTS = CorpusFacts(sample_rate_hz=8192.0, unit_pattern=r"^(u\d+)-", signal_unit="g")

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


def demo(folder: str, num_units: int = 8, sensors_per_unit: int = 2, epochs: int = 12, report_to: str | None = None) -> dict[str, Any]:
    """Generates three corpora of one fleet under `folder` and runs every stage on them. Returns the figures of the closing table."""
    folder, clock = objects.absolute(folder), Clock()

    def at(*names: str) -> str:
        return objects.join(folder, *names)

    with clock.stage("synthesize"):
        write_corpora(folder, num_units, sensors_per_unit)
    with clock.stage("featurize"):
        for name in ("pool", "labelled"):
            featurize(at("raw", name), at("features", name), FACTS, name)
    both = (at("features", "pool"), at("features", "labelled"))
    with clock.stage("train Deep SVDD and VAE"):
        train(TrainingJob(both[:1], at("runs", "ensemble"), small_ensemble(epochs)))
    with clock.stage("train the simple baselines"):
        train(TrainingJob(both[:1], at("runs", "baselines"), baselines()))
    with clock.stage("score the pool"):
        score(at("runs", "ensemble"), at("raw", "pool"), at("scores", "pool"), FACTS.sample_rate_hz)
    with clock.stage("label"):
        label((at("scores", "pool"),), at("decisions", "pool"), PercentileConfig(anomaly=97.0))
    with clock.stage("train the classifier"):
        recipe = small(union_classifier(), 2 * epochs)
        assert isinstance(recipe, ClassifierRecipe)
        job = TrainingJob(both, at("runs", "classifier"), recipe, labels=at("labels", "labelled.jsonl"))
        train(replace(job, pseudo_labels=at("decisions", "pool"), init_from=at("runs", "ensemble")))
    figures = {}
    with clock.stage("score and diagnose the test set"):
        for run in ("ensemble", "baselines", "classifier"):
            score(at("runs", run), at("raw", "test"), at("scores", f"test-{run}"), FACTS.sample_rate_hz)
    with clock.stage("evaluate"):
        for run in ("ensemble", "baselines", "classifier"):
            decisions = at("decisions", "pool") if run == "ensemble" else None
            figures[run] = evaluate((at("scores", f"test-{run}"),), at("labels", "test.jsonl"), decisions)
    with clock.stage("report"):
        tables = (at("scores", "test-ensemble"),)
        report(tables, at("report", "index.html"), at("decisions", "pool"), at("labels", "test.jsonl"), "vibray demo: the test set")
        report_uri = at("report", "index.html")
        if report_to is not None:  # what lies on the demo's own endpoint ends with it
            copied = objects.join(objects.absolute(report_to), "report", "index.html")
            objects.write_bytes(copied, objects.read_bytes(report_uri))
            report_uri = copied
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
            fleet = replace(fleet, broken_share=0.04, long_line=True)
        arguments = {"shard_records": 128, "compression": "none" if pool else "gz", "truncated": pool}
        synthesize(objects.join(folder, "raw", name), objects.join(folder, "labels", f"{name}.jsonl"), fleet, **arguments)
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
    parts = Parts(objects.join(folder, "scores", "pool"))
    cuts = overall_of(read_cuts(objects.join(folder, "decisions", "pool")))
    labels = objects.read_table(objects.join(folder, "decisions", "pool", "pseudo_labels.parquet"))["label"].to_pandas().value_counts()
    aside = ", ".join(f"{count} {reason}" for reason, count in sorted(parts.reasons.items()))
    areas = {f"{name} (baseline)": area for name, area in figures["baselines"]["auroc_by_member"].items()}
    areas |= {"Deep SVDD": figures["ensemble"]["auroc_by_member"]["svdd"], "VAE": figures["ensemble"]["auroc_by_member"]["vae"]}
    areas |= {"SVDD + VAE": figures["ensemble"]["auroc"], "classifier": figures["classifier"]["auroc"]}
    at_half = figures["classifier"]["at_cut"]
    rows = [
        ("records read", f"{parts.total('num_read')} = {parts.total('num_kept')} kept + {parts.total('num_bad')} set aside"),
        ("set aside", aside),
        ("cuts", f"normal <= {cuts.normal_below:.4g}, anomaly >= {cuts.anomaly_above:.4g} ({cuts.method} on {cuts.scale} scores)"),
        ("pseudo-labels", f"{labels.get(0, 0)} normal, {labels.get(1, 0)} abnormal, {labels.get(-1, 0)} undecided"),
        *((f"AUROC {name}", f"{area:.3f}") for name, area in areas.items()),
        ("F1 at .5, classifier", f"{at_half['f1']:.3f} (macro over faults {figures['classifier']['macro_f1']:.3f})"),
        ("seconds", ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures["seconds"].items())),
        ("report", figures["report"]),
    ]
    print()
    for what, figure in rows:
        print(f"{what:<30}{figure}")


@contextlib.contextmanager
def local_s3(bucket: str = "vibray-demo") -> Iterator[str]:
    """The URI of an empty bucket on an S3 endpoint over HTTP on this machine's loopback; the AWS variables point there meanwhile.

    Raises ValueError where the package that serves it is not installed.
    """
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise ValueError("--s3 needs a local S3 server: pip install -e '.[test]'") from None
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
