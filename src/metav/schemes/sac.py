"""SAC-m: how answers to mixed images correlate with each other.

Guan, Liang, He: Are You Stealing My Model? Sample Correlation for Fingerprinting Deep Neural Networks, NeurIPS 2022,
section 3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from metav.fingerprint import Fingerprint
from metav.schemes.base import Ensemble, Needs, calibrated, check_use
from metav.schemes.points import cutmix, starts
from metav.scorers import Correlation


@dataclass(frozen=True, kw_only=True)
class SACm:
    """N mixtures of two images (CutMix); models are alike whose answers to them have like cosine distances."""

    needs: ClassVar[Needs] = Needs(answers="vectors", gradients=False, images=True)

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Mix N = `queries` examples."""
        check_use("sac-m", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        x = cutmix(starts(ensemble, queries, generator), generator)
        provenance = {"scheme": "sac-m", "seed": seed, "options": asdict(self)}
        return calibrated(ensemble, x, Correlation.of, provenance)
