"""Calibrate the sensors that a run does not know: robust statistics of their earliest records, for jobs/score.py --calibration.

python jobs/calibrate.py --run s3://b/runs/a --input s3://b/raw/new-site --calibration s3://b/calibrations/new-site --sample-rate-hz 8192
"""

from dataclasses import dataclass

import tyro

from vibray.pipeline.calibration import RECORDS_PER_SENSOR, calibrate
from vibray.pipeline.session import started, user_errors


@dataclass(frozen=True)
class Calibrate:
    run: str
    """finished run"""
    input: str
    """folder of shards with the new sensors' records"""
    calibration: str
    """folder for the calibration"""
    sample_rate_hz: float
    """samples a second of the input; must be the run's"""
    records_per_sensor: int = RECORDS_PER_SENSOR
    """earliest records of each new sensor, by time, that make its baseline"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    dry_run: bool = False
    """print the plan and the cost; write nothing"""


def main(args: Calibrate) -> None:
    with started(needed=not args.dry_run):
        calibrate(args.run, args.input, args.calibration, args.sample_rate_hz, args.records_per_sensor, args.corpus, args.dry_run)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Calibrate, description=__doc__))
