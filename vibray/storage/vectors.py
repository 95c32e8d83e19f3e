"""Vectors and waveforms as columns of fixed length, and as arrays."""

import numpy as np
import pyarrow as pa

from vibray.storage import objects


def read_vectors(uri: str, column: str) -> np.ndarray:
    """A column of vectors of a part's file, float32 (records, size)."""
    stored = objects.read_table(uri, [column])[column].combine_chunks()
    return stored.flatten().to_numpy().reshape(len(stored), -1)


def waveforms_of(table: pa.Table) -> np.ndarray:
    """The waveforms of a table, (records, samples) float32, copied so that torch may have them."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["waveform"].chunks]
    size = table.schema.field("waveform").type.list_size
    return np.concatenate([np.empty(0, np.float32), *chunks]).reshape(-1, size)


def vector_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """A (records, size) float32 array as a column of vectors."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values, np.float32).reshape(-1)), values.shape[1])
