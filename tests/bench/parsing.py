"""Raw bytes to waveforms: the numbers of a line, a whole line, and a gzip'd shard cut into lines."""

import gzip
import io
import json

import numpy as np

from tests.bench.timing import Route, Row
from tests.reference.records import lines as cut_slowly
from vibray.signal.broken import line
from vibray.storage.corpus import CorpusFacts
from vibray.storage.records import parse_line
from vibray.storage.shards import lines_of
from vibray.storage.shortcut import cut_numbers, parse_floats

NUM_LINES = 40
NUM_SAMPLES = 8192
FACTS = CorpusFacts(sample_rate_hz=8192.0, num_samples=NUM_SAMPLES)


def _lines() -> list[bytes]:
    signals = np.random.default_rng(0).normal(0, 3, (NUM_LINES, NUM_SAMPLES))
    return [line("2023-12-04T15:09:34.000Z", "s1", ",".join(f"{x:.5g}" for x in signal)) for signal in signals]


def _naive(raw: bytes) -> np.ndarray:
    return np.array([float(v) for v in json.loads(raw)["signal_value"].split(",")], np.float32)


def rows() -> list[Row]:
    lines = _lines()
    texts = [json.loads(raw)["signal_value"].encode() for raw in lines]
    packed = gzip.compress(b"".join(lines), 6)

    def parse(raw: bytes) -> object:
        return parse_line(raw, "a.jsonl", 0, 1, "c", FACTS)

    naive = Route("json.loads, float(), split", lambda: [_naive(raw) for raw in lines], NUM_LINES)
    floats = Route("float(), split", lambda: [np.array([float(v) for v in text.split(b",")], np.float32) for text in texts], NUM_LINES)

    def samples(raw: bytes) -> tuple[object, object]:
        cut = cut_numbers(raw)
        assert cut is not None
        return json.loads(cut[0]), cut[2]

    return [
        Row(
            "a line's fields and float32 samples",
            (naive,),
            Route("cut_numbers, json.loads", lambda: [samples(raw) for raw in lines], NUM_LINES),
            ">= 10x",
        ),
        Row(
            "its 8192 numbers alone",
            (floats, naive),
            Route("parse_floats", lambda: [parse_floats(b"[%b]" % text, True) for text in texts], NUM_LINES),
            "",
        ),
        Row(
            "the whole record: checks, time, content hash",
            (naive,),
            Route("parse_line", lambda: [parse(raw) for raw in lines], NUM_LINES),
            "",
        ),
        Row(
            "gunzip and cut into lines",
            (
                Route("gzip.decompress, split", lambda: cut_slowly(gzip.decompress(packed)), NUM_LINES),
                Route("lines of gzip.open", lambda: list(gzip.open(io.BytesIO(packed))), NUM_LINES),
            ),
            Route("lines_of", lambda: list(lines_of(io.BytesIO(packed), ".jsonl.gz")), NUM_LINES),
            "",
        ),
    ]
