"""Score raw shards with a finished run: one pass, part by part, every record exactly once.

  python jobs/score.py --run s3://b/runs/a --input s3://b/raw/2024 \\
      --scores s3://b/scores/2024 --sample-rate-hz 8192

Sensors that the run does not know: --calibration takes a calibration of them (jobs/calibrate.py); --calibrate first:16 makes one of
each sensor's 16 earliest records in a first pass of this job, within the scores folder. Those 16 are then scored each against the other
15. Without either such sensors are scored against the fleet and raise no alarm.

One new file, its diagnoses and a page of them, in seconds and without Ray:

  python jobs/score.py --run runs/classifier --input new.jsonl \\
      --scores scores/new --sample-rate-hz 8192 --report new.html

The run folder knows recipe, unit pattern, time zone and mains. The same command again goes on where it stopped. A classifier's run
fills the diagnoses: abnormal_probability (which is the score), the fault and its probability.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import ScoreJob, help_text


def main(job: ScoreJob) -> None:
    from vibray.pipeline.score import score

    score(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(ScoreJob, description=help_text(__doc__)))
