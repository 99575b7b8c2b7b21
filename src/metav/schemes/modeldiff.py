"""ModelDiff: how far answers move from inputs to partners that the target tells apart.

Li, Zhang, Liu, Yang, Liu, Guo: ModelDiff: Testing-Based DNN Similarity Comparison for Model Reuse Detection, ISSTA
2021, section 4. The paper's vector of N cosine distances, not the matrix that its later code computes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.base import Ensemble, Needs, calibrated, check_at_least, check_use
from metav.schemes.points import starts, width
from metav.scorers import DecisionDistance
from metav.spec import Model
from metav.verification import query


@dataclass(frozen=True, kw_only=True)
class ModelDiff:
    """Give each of N examples a partner within a small box around it, and compare how far answers are apart.

    Parameters
    ----------
    eps, step
        Half-width of that box and of a step, in widths of the input box.
    steps
        Of projected gradient ascent.
    diversity
        Weight of the distances among the partners' answers against that to the own example's.
    """

    needs: ClassVar[Needs] = Needs(answers="vectors", per_query=2)

    eps: float = 0.06
    step: float = 0.01
    steps: int = 50
    diversity: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(steps=(self.steps, 1))
        if not 0 < self.eps <= 1 or not 0 < self.step <= 1 or not 0 <= self.diversity < float("inf"):
            raise UsageError(
                f"expected eps and step in (0, 1] and a finite diversity of at least 0, got {self.eps}, {self.step} "
                f"and {self.diversity}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Make N = `queries` pairs; the fingerprint asks 2N inputs, examples first, then partners."""
        check_use("modeldiff", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        x = starts(ensemble, queries, generator)
        pairs = torch.cat([x, self.partners(ensemble, x, generator)])
        provenance = {"scheme": "modeldiff", "seed": seed, "options": asdict(self)}
        return calibrated(ensemble, pairs, DecisionDistance.of, provenance)

    def partners(self, ensemble: Ensemble, x: Tensor, generator: torch.Generator) -> Tensor:
        """Projected gradient ascent from random starts, all partners at once."""
        spec, unit = ensemble.spec, width(ensemble.spec)
        eps, step = self.eps * unit, self.step * unit
        low, high = spec.clamp(x - eps), spec.clamp(x + eps)
        clean = query(ensemble.target, x).flatten(1)
        partner = torch.lerp(low, high, torch.rand(x.shape, generator=generator))
        for _ in range(self.steps):
            partner.requires_grad_(True)
            (slope,) = torch.autograd.grad(self._spread(ensemble.target, partner, clean), partner)
            partner = (partner.detach() + step * slope.sign()).clamp(low, high)
        return partner

    def _spread(self, model: Model, x: Tensor, clean: Tensor) -> Tensor:
        """What is to be large: distances from clean answers, and among the partners' answers."""
        answers = model(x).flatten(1)
        away = (answers - clean).square().sum(1).add(1e-12).sqrt().sum()
        if len(x) < 2:
            return away
        return away + self.diversity * torch.nn.functional.pdist(answers).sum() / (len(x) - 1)
