"""What a run's model is given: one batch of records, and of them, each made once, the features and the mains' lines."""

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vibray.features.harmonic import Harmonic
from vibray.features.hetero_image import HeteroImage
from vibray.features.spectral import Spectral
from vibray.recipes.building import build_feature
from vibray.recipes.kinds import FeatureConfig
from vibray.signal.harmonics import Mains, mains_frequency
from vibray.storage.corpus import CorpusFacts

Blocks = Mapping[FeatureConfig, Collection[str]]
"""By feature, the only blocks of it that are read."""


class Inputs:
    """One batch's features, each computed once however many detectors ask for it; those in `made` were before.

    `blocks`: of a feature in it those blocks alone are made, in the precision that scores need (features/spectral.py).
    """

    def __init__(
        self,
        waveforms: Float[Tensor, "batch samples"],
        facts: CorpusFacts,
        made: Mapping[FeatureConfig, Tensor] | None = None,
        blocks: Blocks | None = None,
    ):
        self.waveforms, self.facts = waveforms, facts
        self._made, self._blocks = dict(made or {}), blocks or {}

    @cached_property
    def mains(self) -> Mains | None:
        """The mains' lines; None for a machine without a mains frequency."""
        rate_hz, mains_hz = self.facts.sample_rate_hz, self.facts.mains_hz
        return None if mains_hz is None else Mains(self.waveforms, rate_hz, mains_hz)

    def __getitem__(self, config: FeatureConfig) -> Tensor:
        if config not in self._made:
            self._made[config] = self._make(config)
        return self._made[config]

    def _make(self, config: FeatureConfig) -> Tensor:
        feature, given = build_feature(config, self.facts.mains_hz), (self.waveforms, self.facts.sample_rate_hz)
        if not isinstance(feature, Spectral | Harmonic | HeteroImage):
            return feature(*given)
        feature.check(given[1], self.waveforms.shape[-1])  # what is wrong is told in its words
        mains = self.mains if feature.config.mains_hz == self.facts.mains_hz else None
        blocks = self._blocks.get(config)
        return feature(*given, mains, blocks) if isinstance(feature, Spectral) else feature(*given, mains)


def mains_snr_db(waveforms: Float[np.ndarray, "batch samples"], facts: CorpusFacts) -> np.ndarray | None:
    """How far each record's mains line stands above the noise; None for a machine without one."""
    if facts.mains_hz is None:
        return None
    return mains_frequency(torch.from_numpy(waveforms), facts.sample_rate_hz, facts.mains_hz).snr_db.numpy()
