"""What contradicts itself in records or tables: said once, counted, and with a remedy where there is one."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One kind of contradiction: a line at a job's end, a count in its JSON, a row of the report."""

    kind: str
    """its name in JSON, as implausible_times"""
    count: int
    """of what `text` counts: records, moments, sensors"""
    text: str
    """the whole of it in one line: how many, of whom, an example, what was done with them, the remedy"""


def counts_of(findings: Iterable[Finding]) -> dict[str, int]:
    """Counts by kind, for summary.json and the markers."""
    return {finding.kind: finding.count for finding in findings}


def print_findings(findings: Iterable[Finding]) -> None:
    """A line each."""
    for finding in findings:
        print(f"found: {finding.text}")
