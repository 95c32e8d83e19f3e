"""Location and spread that a few records far away do not move."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MAD_TO_STD = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


Statistic = Float[np.ndarray, "*rows"] | np.float64
"""One number a row; of a single row a scalar of numpy's."""


def median_mad(values: Float[np.ndarray, "*rows values"]) -> tuple[Statistic, Statistic]:
    """The median along the last axis, and 1.4826 times the median absolute deviation from it."""
    median = np.median(values, axis=-1)
    deviation = values - np.expand_dims(median, -1)
    np.abs(deviation, out=deviation)  # of ten million scores each copy takes 80 MB
    return median, MAD_TO_STD * np.median(deviation, axis=-1, overwrite_input=True)


def kth_smallest(values: Float[Tensor, "*rest values"], k: int) -> Float[Tensor, "*rest"]:
    """The k-th smallest (from 1) along the last axis. numpy's selection takes a fifth of torch's time for rows of a hundred."""
    if values.is_cuda:
        return values.kthvalue(k, dim=-1).values
    return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=-1)[..., k - 1])
