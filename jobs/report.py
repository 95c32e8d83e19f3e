"""One self-contained HTML report of a scores table; alarms.csv and unit_alarms.csv beside it.

Alarms of units and the drift of sensors are shown where the decisions were made on these very scores.

python jobs/report.py --scores s3://b/scores/2024 --report report/index.html --decisions s3://b/decisions/2024-mad
"""

from dataclasses import dataclass

import tyro

from vibray.pipeline.reporting import report
from vibray.pipeline.session import user_errors


@dataclass(frozen=True)
class Report:
    scores: tuple[str, ...]
    """finished scores tables of one run"""
    report: str
    """the HTML file to write"""
    decisions: str | None = None
    """decisions folder: its cuts make the alarms"""
    labels: str | None = None
    """labels file (JSON Lines): the report then shows metrics"""
    title: str = "vibray report"
    """heading of the page"""
    explain: bool = True
    """draw why the highest records are high (needs the run)"""
    search: str | None = None
    """finished search that chose the run's recipe: a section shows it"""
    dry_run: bool = False
    """print what the report would show; write nothing"""


def main(args: Report) -> None:
    report(
        args.scores,
        args.report,
        args.decisions,
        args.labels,
        args.title,
        explain=args.explain,
        search_uri=args.search,
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Report, description=__doc__))
