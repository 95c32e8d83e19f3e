"""Lines that a reader must set aside: one for each quarantine reason, made from a good record."""

import gzip

from vibray.schema import Reason

LINE_REASONS = tuple(reason for reason in Reason if reason not in (Reason.LINE_TOO_LONG, Reason.TRUNCATED_STREAM, Reason.NOT_FINITE))
"""Reasons that a line of ordinary length has by itself."""

LONG_LINE_BYTES = 17_000_000


def line(data_time: str, sensor_id: str, values: str) -> bytes:
    """A line as the field's recorders write it: `values` are comma-separated numbers."""
    return f'{{"data_time": "{data_time}", "signal_value": "{values}", "sensor_id": "{sensor_id}"}}\n'.encode()


def broken_line(reason: Reason, data_time: str, sensor_id: str, values: str) -> bytes:
    """The line with exactly one defect. Raises ValueError for TRUNCATED_STREAM, which is a shard's, not a line's (see `truncated`)."""
    good = line(data_time, sensor_id, values)
    numbers = values.split(",")
    middle = len(numbers) // 2
    match reason:
        case Reason.NOT_JSON:
            return good[: len(good) // 3] + b"\n"
        case Reason.NOT_AN_OBJECT:
            return f'["{data_time}", "{sensor_id}"]\n'.encode()
        case Reason.SEVERAL_OBJECTS:
            return good.rstrip() + good
        case Reason.DOUBLED_FIELD:
            return good.replace(b"{", f'{{"sensor_id": "{sensor_id}-2", '.encode(), 1)
        case Reason.MISSING_FIELD:
            return f'{{"data_time": "{data_time}", "sensor_id": "{sensor_id}"}}\n'.encode()
        case Reason.BAD_TIME:
            return line("sometime in December", sensor_id, values)
        case Reason.BAD_SENSOR_ID:
            return good.replace(f'"sensor_id": "{sensor_id}"'.encode(), b'"sensor_id": 7')
        case Reason.NOT_A_NUMBER:
            numbers[middle] = "ERR"
        case Reason.NAN_OR_INFINITE:
            numbers[middle] = "nan"
        case Reason.WRONG_LENGTH:
            numbers = numbers[:middle]
        case Reason.CONSTANT:
            numbers = numbers[:1] * len(numbers)
        case Reason.OUT_OF_RANGE:
            numbers[middle] = "1e10"
        case Reason.PRECISION_LOST:
            numbers = [f"{2**31 + float(number):.5f}" for number in numbers]
        case Reason.CLIPPED:
            numbers[middle : middle + 40] = [max(numbers, key=float)] * len(numbers[middle : middle + 40])
        case Reason.LINE_TOO_LONG:
            return line(data_time, sensor_id, "0.1," * (LONG_LINE_BYTES // 4) + "0.1")
        case Reason.TRUNCATED_STREAM:
            raise ValueError("a truncated stream is a property of a shard: see truncated()")
    return line(data_time, sensor_id, ",".join(numbers))


def truncated(good: bytes) -> bytes:
    """A gzip'd shard of one line whose second half was never uploaded."""
    whole = gzip.compress(good, mtime=0)
    return whole[: len(whole) // 2]
