"""Faults that come in a step and faults that grow, planted in generated waveforms, through the whole line to unit_trends.parquet."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.pipeline.lines import corpus_fields
from vibray.decide.thresholds import MadConfig
from vibray.decide.units import read_units
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, LabelJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import fused
from vibray.signal.broken import line
from vibray.signal.synthetic import Condition, FleetConfig, Place, measured_at, sensor_id, waveform
from vibray.storage.corpus import CorpusFacts

RATE_HZ, STEPS = 8192.0, 200
FACTS = CorpusFacts(RATE_HZ, unit_pattern=r"^(u\d+)-")
FLEET = FleetConfig(seed=3, sensors_per_unit=1, contamination=0.0, off_share=0.0)
POOL_UNITS, FIRST = 8, 20

Severity = Callable[[int], float]


def stepped(at: int, severity: float) -> Severity:
    return lambda step: severity * (step >= at)


def grown(at: int, severity: float) -> Severity:
    return lambda step: severity * max(0, step - at) / (STEPS - 1 - at)


PLANTED: dict[int, tuple[str, str, int, Severity] | None] = {
    FIRST: None,
    FIRST + 1: ("core_looseness", "step", 140, stepped(140, 0.7)),
    FIRST + 2: None,
    FIRST + 3: ("dc_bias", "growing", 110, grown(110, 1.0)),
    FIRST + 4: ("dc_bias", "step", 150, stepped(150, 0.7)),
    FIRST + 5: ("core_looseness", "growing", 110, grown(110, 1.0)),
}


def write(folder: Path, units: dict[int, tuple[str, str, int, Severity] | None], steps: int) -> str:
    folder.mkdir()
    for number, planted in units.items():
        with (folder / f"{number}.jsonl").open("wb") as file:
            for step in range(steps):
                severity = 0.0 if planted is None else planted[3](step)
                what = Condition(planted[0], severity) if planted is not None and severity > 0 else Condition()
                x = waveform(FLEET, Place(number, 0, step), what)
                time = measured_at(FLEET, number, step).isoformat()
                file.write(line(time, sensor_id(Place(number, 0, 0)), ",".join(f"{v:.5g}" for v in x)))
                file.write(b"\n")
    return str(folder)


@pytest.mark.slow
def test_steps_and_growth_are_told_apart_from_waveforms_on(tmp_path, capsys):
    pool = write(tmp_path / "pool", dict.fromkeys(range(POOL_UNITS)), 40)
    featurize(FeaturizeJob(pool, str(tmp_path / "features"), vectors=("spectral",), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), fused(), local=True))
    new = write(tmp_path / "new", PLANTED, STEPS)
    score(ScoreJob(str(tmp_path / "run"), new, str(tmp_path / "scores"), RATE_HZ, calibrate="first:60", local=True))
    capsys.readouterr()
    label(LabelJob((str(tmp_path / "scores"),), str(tmp_path / "decisions"), method=MadConfig(log=False)))
    print(capsys.readouterr().out)
    units = read_units(str(tmp_path / "decisions"))
    assert units is not None and units.trends is not None
    found = {row["unit"]: row for row in units.trends.to_pylist()}
    for number, planted in PLANTED.items():
        row = found[f"u{number:02d}"]
        if planted is None:
            assert row["verdict"] == "steady"
            continue
        fault, verdict, at, _ = planted
        assert row["verdict"] == verdict, (fault, row)
        late = row["since"] - measured_at(FLEET, number, at)
        slack = 3 if verdict == "step" else 40  # records; a fault that grows is not heard at once
        assert abs(late) <= slack * timedelta(seconds=FLEET.interval_s), (fault, row)
        assert row["change"] > 2
        assert (row["per_month"] is not None) == (verdict == "growing")
