"""A pruned band transformer that learns what the one it was pruned from says of the same examples."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vibray.models.band_transformer import BandTransformer, Encoded, mean_over


class Distilled(nn.Module):
    """Trains `student` to give `teacher`'s logits; of an example the views that are scored are shown to both.

    A corpus without labels knows no named fault, and training on it by generic ones forgets those that the teacher was shown: what it says
    of generic ones holds more. Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.1, of one logit.
    """

    noise_shape: tuple[int, ...] | None = None

    def __init__(self, student: BandTransformer, teacher: BandTransformer) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher.eval(),)  # no part of what is trained and kept

    def forward(self, x: Float[Tensor, "batch views ..."]) -> tuple[Encoded, Float[Tensor, "examples sensors"]]:
        shown = x[:, 1:].flatten(0, 1)
        with torch.no_grad():
            said = self._teacher[0](shown).logit
        return self.student(shown), said

    def loss(self, out: tuple[Encoded, Tensor], target: Any = None) -> Float[Tensor, " batch"]:
        """Mean squared difference of the logits, over the sensors and the views of each example."""
        own, said = out
        return mean_over((own.logit - said).square(), own.present).unflatten(0, (-1, 2)).mean(1)
