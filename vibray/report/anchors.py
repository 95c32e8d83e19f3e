"""Names of places in the page that other files may link to: the same record or unit has the same name in every report."""

from hashlib import sha256


def record_anchor(corpus: str, record_id: str) -> str:
    """The id of a record's card: `report.html#record-3fa9c01d22be`."""
    return "record-" + _short(f"{corpus}\0{record_id}")


def unit_anchor(unit: str) -> str:
    """The id of a unit's section."""
    return "unit-" + _short(unit)


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]
