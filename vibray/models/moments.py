"""Mean, covariance and the fourth moment that Ledoit-Wolf needs, in one pass, mergeable."""

import torch
from jaxtyping import Float64
from torch import Tensor


class Moments:
    """Central sums over records, about their own mean m, with d = x - m:

        count n,  mean m,  scatter S = sum d d',  cubic t = sum |d|^2 d,  quartic q = sum |d|^4.

    About another point, d becomes d + e with e = m - point, and since sum d = 0,

        S -> S + n e e'
        t -> t + tr(S) e + 2 S e + n |e|^2 e
        q -> q + 4 e't + 4 e'S e + 2 |e|^2 tr(S) + n |e|^4.

    Two sets are merged by moving both to the common mean and adding (Chan et al. 1979, for orders 3 and 4): sums of raw powers would
    lose every digit where the mean is large. Memory: 8 bytes * dims^2.
    """

    def __init__(self, dims: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64)
        self.cubic = torch.zeros(dims, dtype=torch.float64)
        self.quartic = torch.zeros((), dtype=torch.float64)

    def update(self, x: Float64[Tensor, "batch dims"]) -> None:
        """Takes a batch; an empty one changes nothing."""
        if not len(x):
            return
        x = x.cpu()
        batch = Moments(x.shape[1])
        batch.count, batch.mean = len(x), x.mean(dim=0)
        d = x - batch.mean
        square = d.square().sum(dim=1)
        batch.scatter, batch.cubic, batch.quartic = d.T @ d, square @ d, square @ square
        self.merge(batch)

    def merge(self, other: "Moments") -> None:
        """Takes another set in."""
        if not other.count:
            return
        n = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / n)
        ours, theirs = self._about(mean), other._about(mean)
        self.count, self.mean = n, mean
        self.scatter, self.cubic, self.quartic = (a + b for a, b in zip(ours, theirs, strict=True))

    def _about(self, point: Float64[Tensor, " dims"]) -> tuple[Tensor, Tensor, Tensor]:
        n, S, t, q = self.count, self.scatter, self.cubic, self.quartic
        e = self.mean - point
        e2, trace, Se = e @ e, S.trace(), S @ e
        return (
            S + n * torch.outer(e, e),
            t + trace * e + 2 * Se + n * e2 * e,
            q + 4 * (e @ t) + 4 * (e @ Se) + 2 * e2 * trace + n * e2**2,
        )

    @property
    def covariance(self) -> Float64[Tensor, "dims dims"]:
        """S / n."""
        return self.scatter / self.count

    def ledoit_wolf(self) -> tuple[Float64[Tensor, "dims dims"], float]:
        """(covariance, shrinkage): (1 - a) C + a mu I with C = S / n, mu = tr(C) / p, and the a in [0, 1] of least expected error.

        a = min(b, d) / d with d = |C - mu I|^2 / p and b = (q / n - |C|^2) / (n p): of the fourth order only q is needed.

        Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", section 3.3.
        """
        n, p, C = self.count, len(self.mean), self.covariance
        mu = C.trace() / p
        C2 = C.square().sum()
        d = C2 / p - mu**2
        b = (self.quartic / n - C2) / (n * p)
        a = float((b / d).clamp(0, 1)) if d > 0 else 1.0  # d = 0: C is mu I already
        return (1 - a) * C + a * mu * torch.eye(p, dtype=torch.float64), a
