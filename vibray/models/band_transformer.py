"""A transformer over tokens of fixed bands of Hz, with attention over a unit's sensors: the large pretrained model of the second plan.

Its parts are that plan's: an encoder, a decoder with graph attention over the sensors, a scorer; its loss a contrastive and a masked
reconstruction term, and the scorer's own. What it reads are deviations from what is usual within a sensor, not spectra: a net that can see
whose record it is learns that, and no fault.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import with_config
from torch import Tensor, nn

from vibray.config import STRICT, UserError
from vibray.models.fitted import check_field

MAX_SENSORS = 8
"""Sensors of a unit that see one another."""
KNOWN = 1.5
"""The score begins as this times ln mean |x|: a record far from its sensor's context in whatever way is abnormal."""
Gather = Callable[[Tensor], tuple[Tensor, int]]

HEALTHY, OTHER_HEALTHY, ABNORMAL = range(3)
"""The views of a training example: a unit at two moments when nothing is known to be wrong, and at one with a fault."""


@with_config(STRICT)
@dataclass(frozen=True)
class BandTransformerConfig:
    """Transformer over bands, pretrained on several corpora."""

    kind: Literal["band_transformer"] = "band_transformer"
    rows_per_token: int = 8
    """neighbouring rows of an image that make a token, in all its channels"""
    width: int = 96
    """numbers of a token inside the net"""
    layers: int = 3
    heads: int = 4
    """attention heads of a layer"""
    head_width: int = 24
    """numbers of a head's queries, keys and values"""
    feedforward: int = 384
    """numbers inside a layer's feed-forward part"""
    hidden: int = 256
    """numbers inside the scorer"""
    keep: float = 1.0
    """share of a record's tokens that are looked at, those that deviate most; below 1 the rest costs nothing"""
    adapter: int = 0
    """width of the bottlenecks beside each layer's two parts, which alone are trained where there are any, with the scorer's last layer; 0:
    none"""
    base: str | None = None
    """folder of jobs/pretrain.py whose weights all but the adapters are; set by --init-from"""
    base_sha256: str = ""
    """of those weights' file"""
    alpha: float = 0.1
    """weight of the contrastive loss: one sensor at two times against the others of a batch"""
    beta: float = 1.0
    """weight of the reconstruction of masked tokens"""
    gamma: float = 1.0
    """weight of the scorer's loss"""
    masked: float = 0.4
    """share of tokens that are masked"""
    temperature: float = 0.2
    """of the contrastive loss"""

    def __post_init__(self) -> None:
        names = ("rows_per_token", "width", "layers", "heads", "head_width", "feedforward", "hidden")
        for name in names:
            check_field(self, name, getattr(self, name) >= 1, "at least 1")
        check_field(self, "adapter", self.adapter >= 0, "at least 0")
        check_field(self, "keep", 0 < self.keep <= 1, "a share above 0, at most 1")
        check_field(self, "masked", 0 < self.masked < 1, "a share between 0 and 1")
        if min(self.alpha, self.beta, self.gamma) < 0 or self.temperature <= 0:
            raise UserError("band_transformer: alpha, beta and gamma are at least 0, temperature above 0")


@dataclass
class Encoded:
    """What the net makes of units' records, sensor by sensor; a sensor that a unit has not is left out of every mean."""

    present: Bool[Tensor, "batch sensors"]
    embedding: Float[Tensor, "batch sensors width"]
    logit: Float[Tensor, "batch sensors"]
    losses: Float[Tensor, "examples terms"] | None = None
    """of training examples: contrastive, reconstruction, scorer"""


class Attention(nn.Module):
    """Multi-head attention of any head width, so that heads can be taken out. `seen`: which of the others each may look at."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_heads = nn.Linear(width, 3 * heads * head_width)
        self.from_heads = nn.Linear(heads * head_width, width)

    def forward(self, x: Float[Tensor, "batch tokens width"], seen: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        q, k, v = self.to_heads(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.from_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None]).transpose(1, 2).flatten(2))


class Adapter(nn.Module):
    """A residual bottleneck, nothing at first. Source: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return x + self.up(F.gelu(self.down(x)))


class Layer(nn.Module):
    """A layer of the encoder, norms first."""

    def __init__(self, c: BandTransformerConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.attention = Attention(c.width, c.heads, c.head_width)
        self.feedforward = nn.Sequential(nn.Linear(c.width, c.feedforward), nn.GELU(), nn.Linear(c.feedforward, c.width))
        self.adapters = nn.ModuleList(Adapter(c.width, c.adapter) if c.adapter else nn.Identity() for _ in range(2))

    def forward(self, x: Float[Tensor, "batch tokens width"], seen: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        x = x + self.adapters[0](self.attention(self.norm1(x), seen))
        return x + self.adapters[1](self.feedforward(self.norm2(x)))


class GraphAttention(nn.Module):
    """What a unit's other sensors say, added to each sensor's embedding; from zero values, so that at first each speaks for itself.

    Source: Velickovic et al. 2018, "Graph Attention Networks", eq. 1 to 4, on the complete graph of a unit's sensors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(width, 1), nn.Linear(width, 1)
        self.values = nn.Linear(width, width)
        nn.init.zeros_(self.values.weight)
        nn.init.zeros_(self.values.bias)

    def forward(
        self, h: Float[Tensor, "batch sensors width"], present: Bool[Tensor, "batch sensors"]
    ) -> Float[Tensor, "batch sensors width"]:
        likeness = F.leaky_relu(self.own(h) + self.others(h).transpose(1, 2), 0.2)
        weights = likeness.masked_fill(~present[:, None], -torch.inf).softmax(dim=2).nan_to_num()
        return h + weights @ self.values(h)


class BandTransformer(nn.Module):
    """x, an image (channels, rows, columns) of deviations from a sensor's context, to a logit of being faulty. A row means the same Hz
    everywhere. A token whose numbers are all 0 is one that the sensor cannot hear, and is left out; so is a sensor without tokens.

    `in_shape` is (channels, rows, columns).
    """

    def __init__(self, config: BandTransformerConfig, in_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, rows, columns = in_shape
        if rows % config.rows_per_token:
            raise UserError(f"band_transformer: rows_per_token {config.rows_per_token} does not divide the image's {rows} rows")
        self.config, self.in_shape = config, in_shape
        self.gather: Gather | None = None
        """the embeddings of all workers' examples, and where this one's begin; where it is set, a batch is that of all"""
        self.num_tokens, self.size = rows // config.rows_per_token * columns, channels * config.rows_per_token
        self.noise_shape = (MAX_SENSORS * self.num_tokens,)
        self.to_width = nn.Linear(self.size, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(self.num_tokens, config.width))
        self.start = nn.Parameter(0.02 * torch.randn(config.width))
        self.mask = nn.Parameter(torch.zeros(config.width))
        self.encoder = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.graph = GraphAttention(config.width)
        self.decoder = nn.Sequential(nn.Linear(2 * config.width, config.width), nn.GELU(), nn.Linear(config.width, self.size))
        self.scorer = nn.Sequential(nn.Linear(config.width + 1, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
        for parameter in self.scorer[-1].parameters():
            nn.init.zeros_(parameter)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not config.adapter or adapts(name))

    def forward(self, x: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch noise"] | None = None) -> Encoded:
        """`x` is (batch, channels, rows, columns), each a unit's only sensor; (batch, sensors, ...); or with `noise` training examples
        (batch, views, sensors, ...)."""
        if noise is not None:
            return self._examples(x, noise)
        tokens = self._tokens(x[:, None] if x.ndim == 4 else x)
        embedding, present, _ = self._encode(tokens)
        return Encoded(present, embedding, self._logit(tokens, embedding, present))

    def score(self, out: Encoded) -> Float[Tensor, " batch"]:
        """ln(1 + e^x) of the mean logit x of a unit's sensors: above 0, the higher, the more abnormal."""
        return F.softplus(mean_over(out.logit, out.present))

    def loss(self, out: Encoded, target: Tensor | None = None) -> Float[Tensor, " batch"]:
        """alpha contrastive + beta masked reconstruction + gamma scorer, of each example."""
        assert out.losses is not None
        c = self.config
        return (out.losses * out.losses.new_tensor([c.alpha, c.beta, c.gamma])).sum(dim=1)

    # ---------------------------------------------------------------- tokens in, embeddings out

    def _tokens(self, x: Float[Tensor, "batch sensors channels rows columns"]) -> Float[Tensor, "batch sensors tokens size"]:
        """Signed logarithms of neighbouring rows together, column after column."""
        x = x.unflatten(3, (-1, self.config.rows_per_token)).permute(0, 1, 5, 3, 2, 4)
        return _log(x.flatten(4).flatten(2, 3))

    def _encode(
        self, tokens: Float[Tensor, "batch sensors tokens size"], masked: Bool[Tensor, "batch sensors tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch sensors width"], Bool[Tensor, "batch sensors"], Float[Tensor, "records tokens width"] | None]:
        """Embeddings, which sensors are there, and where tokens are masked what became of each token of the sensors that are there."""
        heard = (tokens != 0).any(-1)
        present = heard.any(-1)
        seen, own = heard[present], tokens[present]
        h = self.to_width(own)
        if masked is not None:
            h = torch.where(masked[present][..., None], self.mask, h)
        h = h + self.place
        if self.config.keep < 1 and masked is None:
            kept = own.abs().sum(-1).topk(math.ceil(self.config.keep * self.num_tokens), dim=1).indices
            h, seen = h.gather(1, kept[..., None].expand(-1, -1, h.shape[-1])), seen.gather(1, kept)
        h = torch.cat([self.start.expand(len(h), 1, -1), h], dim=1)
        seen = F.pad(seen, (1, 0), value=True)
        for layer in self.encoder:
            h = layer(h, seen)
        h = self.norm(h)
        out = h.new_zeros(*present.shape, h.shape[-1]).masked_scatter(present[..., None], h[:, 0])
        return out, present, None if masked is None else h[:, 1:]

    def _logit(
        self,
        tokens: Float[Tensor, "batch sensors tokens size"],
        h: Float[Tensor, "batch sensors width"],
        present: Bool[Tensor, "batch sensors"],
    ) -> Float[Tensor, "batch sensors"]:
        num = (tokens != 0).any(-1).sum(-1).clamp(min=1) * self.size
        known = (_linear(tokens).abs().sum((-1, -2)) / num).clamp(min=1e-6).log()
        told = self.scorer(torch.cat([self.graph(h, present), known[..., None]], dim=-1))[..., 0]
        return told + KNOWN * known

    # ---------------------------------------------------------------- training examples

    def _examples(self, x: Float[Tensor, "batch views sensors ..."], noise: Float[Tensor, "batch noise"]) -> Encoded:
        """The first view's masked tokens are reconstructed, and its embedding is to be like that of the second; the scorer is to tell the
        second from the third."""
        num, sensors = len(x), x.shape[2]
        views = [self._tokens(x[:, view]) for view in range(3)]
        drawn = noise.unflatten(1, (MAX_SENSORS, -1))[:, :sensors]
        masked = drawn < torch.special.ndtri(drawn.new_tensor(self.config.masked))
        first, present, decoded = self._encode(views[HEALTHY], masked)
        assert decoded is not None
        tokens = torch.cat([views[OTHER_HEALTHY], views[ABNORMAL]])
        embedding, there, _ = self._encode(tokens)
        logit = self._logit(tokens, embedding, there)
        losses = torch.stack(
            [
                self._contrastive(first, embedding[:num], present & there[:num]),
                self._reconstruction(views[HEALTHY], first, present, decoded, masked),
                (mean_over(F.softplus(logit[:num]), there[:num]) + mean_over(F.softplus(-logit[num:]), there[num:])) / 2,
            ],
            dim=1,
        )
        return Encoded(there[:num], embedding[:num], logit[:num], losses)

    def _contrastive(
        self, a: Float[Tensor, "batch sensors width"], b: Float[Tensor, "batch sensors width"], present: Bool[Tensor, "batch sensors"]
    ) -> Float[Tensor, " batch"]:
        """InfoNCE of each example: a sensor's embedding is nearer to its own of another time than to those of the batch's other units.

        Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4. A unit's other sensors are
        neither near nor far: they hear one machine.
        """
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        every, start = (b, 0) if self.gather is None else self.gather(b)
        there = present if self.gather is None else self.gather(present.to(b))[0] > 0
        likeness = torch.einsum("isw,jtw->isjt", a, every) / self.config.temperature
        unit = (torch.arange(start, start + len(a))[:, None] == torch.arange(len(every)))[:, None, :, None].to(a.device)
        sensor = torch.eye(a.shape[1], dtype=torch.bool, device=a.device)[None, :, None]
        counted = there & (~unit | sensor)
        own = torch.einsum("isw,isw->is", a, b) / self.config.temperature
        all_of_them = likeness.masked_fill(~counted, -torch.inf).flatten(2).logsumexp(-1)
        return mean_over(all_of_them - own, present)

    def _reconstruction(
        self,
        tokens: Float[Tensor, "batch sensors tokens size"],
        h: Float[Tensor, "batch sensors width"],
        present: Bool[Tensor, "batch sensors"],
        decoded: Float[Tensor, "records tokens width"],
        masked: Bool[Tensor, "batch sensors tokens"],
    ) -> Float[Tensor, " batch"]:
        """Mean squared error of the masked tokens, from what became of them and from what the unit's sensors say together."""
        unit = self.graph(h, present)[present]
        error = self.decoder(torch.cat([decoded, unit[:, None].expand_as(decoded)], dim=-1)) - tokens[present]
        wrong = error.new_zeros(tokens.shape[:3]).masked_scatter(present[..., None], error.square().mean(-1))
        return mean_over(wrong.flatten(1), (masked & (tokens != 0).any(-1)).flatten(1))


def adapts(name: str) -> bool:
    """Whether a parameter of this name is what an adapter learns: a bottleneck's, or of the scorer's last layer."""
    return ".adapters." in name or name.startswith("scorer.2.")


def mean_over(values: Float[Tensor, "batch each"], counted: Bool[Tensor, "batch each"]) -> Float[Tensor, " batch"]:
    """Mean over those that count; 0 where none does."""
    return torch.where(counted, values, 0).sum(1) / counted.sum(1).clamp(min=1)


def _log(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def _linear(x: Tensor) -> Tensor:
    """What `_log` came from."""
    return x.sign() * x.abs().expm1()
