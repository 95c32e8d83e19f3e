"""One self-contained HTML report of a scores table, and its tables beside it: alarms, what is above the cut without being one, units.

  python jobs/report.py --scores s3://b/scores/2024 \\
      --report report/index.html --decisions s3://b/decisions/2024-mad

--report two/a.html writes two/a.html, a.alarms.csv, a.no_alarm.csv and a.unit_alarms.csv; any other name is a folder for report.html,
alarms.csv, no_alarm.csv and unit_alarms.csv. The report of other inputs is not overwritten.

--language zh writes the page in Chinese; names, notes and findings stay as the data have them.

An alarm is a record at or above the cut of a calibrated sensor that works, on a machine in service; what is off, switching or of a faulty
sensor stands in no_alarm.csv. Alarms of units and the drift of sensors are shown where the decisions were made on these very scores.
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
