"""The sensors of many records: every name once, and a number a record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.features.scaling import Sensor
from vibray.storage.columns import codes


@dataclass(frozen=True)
class Sensors(Sequence[Sensor]):
    """The sensor of each record: every name once, and a number a record."""

    names: tuple[Sensor, ...]
    """(unit, sensor_id), in the order of their first record"""
    code: np.ndarray
    """int32 a record"""

    @classmethod
    def of_table(cls, table: pa.Table) -> "Sensors":
        """Of a table with the columns of a sensor."""
        (units, unit), (ids, sensor_id) = (codes(table[name]) for name in schema.SENSOR)
        pairs, code = _in_order(unit.astype(np.int64) * max(1, len(ids)) + sensor_id)
        return cls(tuple((units[pair // len(ids)], ids[pair % len(ids)]) for pair in pairs.tolist()), code)

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, row: int | np.integer) -> Sensor:  # type: ignore[override]
        return self.names[self.code[row]]

    def of(self, rows: np.ndarray) -> list[Sensor]:
        """Those of some row numbers."""
        return [self.names[code] for code in self.code[rows].tolist()]

    def take(self, rows: np.ndarray) -> "Sensors":
        """Of these rows alone, with no other name."""
        numbers, code = _in_order(self.code[rows])
        return Sensors(tuple(self.names[i] for i in numbers.tolist()), code)

    def rows(self, rows: np.ndarray) -> Iterator[tuple[Sensor, np.ndarray]]:
        """Each sensor of these row numbers, with its own in their order; the sensor whose row comes first is the first."""
        order = np.argsort(self.code[rows], kind="stable")
        starts = np.flatnonzero(np.diff(self.code[rows][order], prepend=-1))
        for places in sorted(np.split(order, starts[1:]) if len(rows) else (), key=lambda places: places[0]):
            own = rows[places]
            yield self.names[self.code[own[0]]], own


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in the order of their first, and the int32 place of each among them."""
    distinct, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return distinct[order], np.argsort(order).astype(np.int32)[place.reshape(-1)]
