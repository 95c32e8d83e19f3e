"""Names a fault by the direction in which a record deviates from its sensor's usual, and says how sure it is.

How far a record deviates says that something is wrong, and mostly how badly; which way it deviates says what. So the two questions see
two things of one vector: "abnormal" its length and the detector's score, "which fault" its direction alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.models.classifier import NO_FAULT, UNKNOWN_FAULT, Diagnosis
from vibray.models.context_scorer import EMBEDDED, ContextNet, ContextScorer

WHITENING = 0.5
"""Power of the inverse standard deviations of healthy records that the vector is divided by, along their principal axes. 0 lets the loudest
blocks decide, 1 gives each direction of mere noise the say of any other."""
COMPARED_WHITENING = 0.75
"""The same power for the embedding by which records are compared. With 1 a fault without a name is lost in noise; with .5 the loudest axes
have too much of the say where few records have labels."""
EMBEDDED_WEIGHT = 2.0
"""How loud the net's numbers are beside as many columns of the vector."""
NEAREST = 3
"""Labelled records that a record must be like for its fault to be a known one."""


@with_config(STRICT)
@dataclass(frozen=True)
class LinearDiagnosisConfig:
    kind: Literal["linear_diagnosis"] = "linear_diagnosis"
    inverse_penalty: float = 0.1
    """C of the logistic regressions: the smaller, the nearer to zero their weights"""
    partner_weight: float = 0.5
    """what a label weighs for the other sensors' records of the same unit and moment; 0 leaves them out"""
    prevalence: float = 0.5
    """share of abnormal records for which the probability of being abnormal is calibrated; at even odds .5 is where the two kinds part"""
    unknown_share: float = 0.1
    """share of plain labelled faults that may be called unknown: less like other labelled ones than these, and a fault has no name"""
    embedding: bool = True
    """show it the hidden layer of the net that knows how faults of transformers show too, where that net's columns are had"""

    def __post_init__(self) -> None:
        if not self.inverse_penalty > 0:
            raise UserError(f"linear_diagnosis: inverse_penalty must be above 0, not {self.inverse_penalty}")
        if not (0 <= self.partner_weight <= 1 and 0 < self.prevalence < 1 and 0 <= self.unknown_share < 1):
            raise UserError(
                "linear_diagnosis: partner_weight lies in [0, 1], prevalence between 0 and 1, unknown_share in [0, 1): not "
                f"{self.partner_weight}, {self.prevalence}, {self.unknown_share}"
            )


@dataclass
class Whitening:
    """Axes of healthy records: x -> (x - center) V w^(-power / 2), with V and w of their Ledoit-Wolf covariance."""

    center: Float[Tensor, " dims"]
    axes: Float[Tensor, "dims dims"]

    def __call__(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch dims"]:
        return (x.to(self.center) - self.center) @ self.axes


def whitening(center: Float[Tensor, " dims"], covariance: Float[Tensor, "dims dims"], power: float) -> Whitening:
    """Of healthy records' mean and covariance; axes with less than a millionth of the largest variance count as having that."""
    w, V = torch.linalg.eigh(covariance.double())
    return Whitening(center.double(), V * w.clamp(min=1e-6 * float(w.max())).clamp(min=1e-30).pow(-power / 2))


def direction(x: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch dims"]:
    """x / |x|; 0 stays 0."""
    return F.normalize(x, dim=1, eps=1e-30)


@dataclass
class Deviations:
    """What is seen of some records."""

    length: Float[Tensor, "batch dims"]
    """deviation, half whitened"""
    direction: Float[Tensor, "batch shown"]
    """its direction, times the root of the number of columns, and that of the net's embedding beside it"""
    likeness: Float[Tensor, "batch compared"]
    """unit vector by which records are compared: of the embedding, further whitened, or of the deviation where there is none"""


@dataclass
class LinearDiagnosis:
    """Fitted on labels by train/diagnosis.py. Shapes: dims columns of the scaled vector, faults named ones.

    With v = deviation half whitened, u its direction:

        fault        softmax((W u + b) / T)
        margin       m'v + m0, the log-odds of being abnormal by v alone
        abnormal     sigmoid(a score + c margin + a0), score the detector's

    A record that is abnormal and less like the nearest three labelled faults than `unknown_below` (mean cosine) has no known fault.
    """

    num_faults: int
    net_columns: list[int]
    """columns that the net reads, in its order; none: no embedding"""
    deviation: Whitening
    fault: Float[Tensor, "faults shown"]
    fault_bias: Float[Tensor, " faults"]
    margin: Float[Tensor, " dims"]
    margin_bias: Float[Tensor, ""]
    abnormal: Float[Tensor, "3"]
    """a, c, a0"""
    temperature: Float[Tensor, ""]
    references: Float[Tensor, "labelled compared"]
    unknown_below: Float[Tensor, ""]
    net: ContextNet | None = None
    embedded: Whitening | None = None
    compared: Whitening | None = None
    """the embedding, half and further whitened"""

    def __call__(self, x: Float[Tensor, "batch dims"], score: Float[Tensor, " batch"]) -> Diagnosis:
        """`x` is scaled by sensor, `score` the detector's of the same records."""
        x, score = x.cpu(), score.cpu()  # some 250,000 products a record: no other device is worth the way
        seen = deviations(x, self.deviation, self.net, self.net_columns, self.embedded, self.compared)
        margin = seen.length @ self.margin + self.margin_bias
        a, c, a0 = self.abnormal
        probability = torch.sigmoid(a * score.to(margin) + c * margin + a0)
        faults = torch.softmax((seen.direction @ self.fault.T + self.fault_bias) / self.temperature, dim=1)
        named = torch.full((len(x),), UNKNOWN_FAULT)
        if self.num_faults:
            known = likeness(seen.likeness, self.references) >= self.unknown_below
            named = torch.where(known, faults.argmax(dim=1), named)
        return Diagnosis(probability.float(), faults.float(), torch.where(probability >= 0.5, named, NO_FAULT))

    def state(self) -> dict[str, Tensor]:
        """All that was fitted."""
        own = {name: getattr(self, name) for name in FITTED}
        own |= {"deviation.center": self.deviation.center, "deviation.axes": self.deviation.axes}
        if self.net is not None and self.embedded is not None and self.compared is not None:
            own |= {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
            own |= {"embedded.center": self.embedded.center, "embedded.axes": self.embedded.axes, "compared.axes": self.compared.axes}
        return own

    @classmethod
    def load(cls, state: dict[str, Tensor], net_columns: list[int]) -> "LinearDiagnosis":
        """What `state` gave."""
        net, embedded, compared = None, None, None
        if "embedded.axes" in state:
            scorer = ContextScorer()
            scorer.load({name.removeprefix("net."): tensor for name, tensor in state.items() if name.startswith("net.")})
            net, center = scorer.net, state["embedded.center"]
            embedded, compared = Whitening(center, state["embedded.axes"]), Whitening(center, state["compared.axes"])
        deviation = Whitening(state["deviation.center"], state["deviation.axes"])
        fitted = {name: state[name] for name in FITTED}
        return cls(len(fitted["fault_bias"]), net_columns, deviation, **fitted, net=net, embedded=embedded, compared=compared)


FITTED = ("fault", "fault_bias", "margin", "margin_bias", "abnormal", "temperature", "references", "unknown_below")


def deviations(
    x: Float[Tensor, "batch dims"],
    deviation: Whitening,
    net: ContextNet | None,
    net_columns: list[int],
    embedded: Whitening | None,
    compared: Whitening | None,
) -> Deviations:
    """What the diagnosis sees of scaled vectors."""
    v = deviation(x)
    u = direction(v)
    shown = u * v.shape[1] ** 0.5
    if net is None or embedded is None or compared is None:
        return Deviations(v, shown, u)
    e = embedding(net, x, net_columns)
    shown = torch.cat([shown, direction(embedded(e)) * (EMBEDDED_WEIGHT * EMBEDDED**0.5)], dim=1)
    return Deviations(v, shown, direction(compared(e)))


@torch.no_grad()
def embedding(net: ContextNet, x: Float[Tensor, "batch dims"], columns: list[int]) -> Float[Tensor, "batch embedded"]:
    """The net's last hidden layer."""
    return net.embedded(x[:, columns].float()).double()


def likeness(x: Float[Tensor, "batch compared"], references: Float[Tensor, "labelled compared"]) -> Float[Tensor, " batch"]:
    """Mean cosine to the nearest labelled records."""
    cosine = x.double() @ references.double().T
    return cosine.topk(min(NEAREST, cosine.shape[1]), dim=1).values.mean(dim=1)
