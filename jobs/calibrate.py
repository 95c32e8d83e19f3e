"""Calibrate the sensors that a run does not know, by robust statistics of their earliest records; jobs/score.py --calibration takes them.

  python jobs/calibrate.py --run s3://b/runs/a --input s3://b/raw/new-site \\
      --calibration s3://b/calibrations/new-site --sample-rate-hz 8192

One record calibrates a sensor: its level is then its own, its spread the one that is usual. The same command again goes on where it
stopped. A calibration is of the shards that were there when it was begun: as records come, make another one in another folder.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import CalibrateJob, help_text


def main(job: CalibrateJob) -> None:
    from vibray.pipeline.calibrate import calibrate

    calibrate(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(CalibrateJob, description=help_text(__doc__)))
