"""Sensors as a table has them."""

from collections.abc import Sequence

import pyarrow as pa

from vibray import schema
from vibray.features.scaling import Sensor
from vibray.tables.sensors import Sensors


def numbered(sensors: Sequence[Sensor]) -> Sensors:
    """Of the sensor of each record."""
    return Sensors.of_table(pa.table({name: [sensor[i] for sensor in sensors] for i, name in enumerate(schema.SENSOR)}))
