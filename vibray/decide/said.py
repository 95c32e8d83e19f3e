"""What people call records: few of a table, so they are named by their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from vibray.schema import NORMAL


@dataclass(frozen=True, eq=False)
class Said:
    """The labelled records of a table: `rows`, ascending, and the label of each, NORMAL or a fault's name."""

    num_records: int
    rows: Int64[np.ndarray, " labelled"]
    labels: np.ndarray
    """np.str_ a labelled record"""

    @classmethod
    def of(cls, human: "Said | Sequence[str | None] | None", num_records: int) -> "Said":
        """As it is given: already so, a label or None a record, or nothing. Raises ValueError for another number of records."""
        if human is None:
            return cls(num_records, np.empty(0, np.int64), np.empty(0, np.str_))
        if not isinstance(human, Said):
            rows = np.array([row for row, label in enumerate(human) if label is not None], np.int64)
            human = cls(len(human), rows, np.array([human[row] for row in rows.tolist()], np.str_))
        if human.num_records != num_records:
            raise ValueError(f"human labels of {human.num_records} records for {num_records} scores")
        return human

    @property
    def faulty(self) -> Bool[np.ndarray, " labelled"]:
        return self.labels != NORMAL

    def mask(self, which: Bool[np.ndarray, " labelled"] | bool = True) -> Bool[np.ndarray, " records"]:
        """bool a record of the table: it is labelled, and of `which`."""
        found = np.zeros(self.num_records, bool)
        found[self.rows] = which
        return found

    def among(self, num_records: int) -> "Said":
        """The same records as the first ones of a longer table."""
        return Said(num_records, self.rows, self.labels)
