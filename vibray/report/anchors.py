"""Where a record and a unit stand on the page: names that any file can link to."""

import hashlib


def record_anchor(corpus: str, record_id: str) -> str:
    """The anchor of a record."""
    return "record-" + hashlib.sha256(f"{corpus}\0{record_id}".encode()).hexdigest()[:12]


def unit_anchor(unit: str) -> str:
    """The anchor of a unit."""
    return "unit-" + hashlib.sha256(unit.encode()).hexdigest()[:12]
