"""One self-contained HTML report of a scores table; alarms.csv and unit_alarms.csv beside it.

  python jobs/report.py --scores s3://b/scores/2024 \\
      --report report/index.html --decisions s3://b/decisions/2024-mad

Alarms of units and the drift of sensors are shown where the decisions were made on these very scores.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import ReportJob, help_text


def main(job: ReportJob) -> None:
    from vibray.pipeline.report import report

    report(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(ReportJob, description=help_text(__doc__)))
