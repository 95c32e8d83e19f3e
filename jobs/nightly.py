"""The job for every night: scores what came since the last table, labels it by standing decisions, reports it; one exit code.

  python jobs/nightly.py --run s3://b/runs/a --input s3://b/raw \\
      --nights s3://b/nights --sample-rate-hz 8192 \\
      --standing s3://b/decisions/2024 --reference s3://b/scores/2024 --dry-run

What stands, made once by hand and made anew when you think fit: scores of a healthy time (the reference) and decisions on them.

  python jobs/score.py --run s3://b/runs/a --input s3://b/raw \\
      --scores s3://b/scores/2024 --sample-rate-hz 8192 --corpus 2024
  python jobs/label.py --scores s3://b/scores/2024 \\
      --decisions s3://b/decisions/2024 --budget 5/week

Each night gets a folder named by its date (UTC): scores/, decisions/, report/ and, last, _done.json with the night's account: shards,
records, alarms, units in alarm and which of them are new. The first night begins where the reference ends, if that is of the same input.

A shard belongs to the night that first saw it, however old its name or its records are. One that was written anew since comes again as a
whole: from then on its later version alone is judged, and what earlier nights said stays in their folders. A night without data is a
finished night with a line that says so. Alarms of units are judged over the last --history nights together, so that midnight parts none.

The same command again goes on where it stopped; a night that was killed is finished by the next one, by its own settings, before that one
begins. Two at a time are harmless: a part is scored once. Standing decisions, reference and labels may be others from night to night;
another run or input needs another --nights.

Exit codes: 0 finished, whatever was found, for alarms are no failure; 2 something to mend, which the last line names; 3 the same command
again may go through; 1 a defect.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import NightlyJob, help_text


def main(job: NightlyJob) -> None:
    from vibray.pipeline.nightly import nightly

    nightly(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(NightlyJob, description=help_text(__doc__)))
