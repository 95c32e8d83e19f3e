"""What all detectors have in common that are fitted by passing over the records rather than by gradient descent."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from torch import Tensor

from vibray.config import UserError


class TooFewRecords(UserError):
    """A detector cannot be fitted on so few records; the message says how many it needs."""


@runtime_checkable
class Fitted(Protocol):
    """A detector on plain vectors (batch, dims): any corpus size, bounded memory, at most three passes.

    `update` every batch (each record once a pass), `merge` the other workers' states, `finish`; where that returns True, start from it
    again for one more pass. The result does not depend on order, batches or workers (to rounding). Pickle carries a state between
    workers; `state` and `load` carry the finished detector through safetensors.
    """

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None: ...

    def merge(self, other: Any) -> None:
        """Takes in the state of a detector of the same class and config."""
        ...

    def finish(self) -> bool:
        """True: one more pass over all records is needed. Raises TooFewRecords."""
        ...

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        """The higher, the more abnormal; each record by itself. float64, on the device of `x`."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


def vectors(x: Float[Tensor, "batch dims"], dims: int) -> Float64[Tensor, "batch dims"]:
    """`x` in float64. Raises ValueError on other than `dims` columns, UserError on values that are not finite."""
    if x.shape[1] != dims:
        raise ValueError(f"a detector of {dims} columns was given {x.shape[1]}")
    if not x.isfinite().all():
        raise UserError(f"{int((~x.isfinite().all(dim=1)).sum())} of {len(x)} feature vectors have a value that is NaN or infinite")
    return x.to(torch.float64)


def check_field(config: Any, name: str, holds: bool, rule: str) -> None:
    """Raises UserError where a config's field breaks its rule, whether it was made from JSON, by tyro or in Python."""
    if not holds:
        raise UserError(f"{getattr(config, 'kind', type(config).__name__)}: {name} must be {rule}, not {getattr(config, name)}")


def require(num_records: int, needed: int, what: str) -> None:
    """Raises TooFewRecords where `num_records` are fewer than `needed`."""
    if num_records < needed:
        raise TooFewRecords(f"{what} needs at least {needed} records to be fitted on, not {num_records}")
