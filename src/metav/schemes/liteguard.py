"""LiteGuard: pairs of a query and a small verifier of its answer alone, for owners with few suspects to learn from.

LiteGuard, ICLR 2026, section 4.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metav.engine import seeded
from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.optim import Adam
from metav.schemes.base import Ensemble, Needs, check_at_least, check_flags, check_gradients, check_learning
from metav.schemes.metav import box, sample
from metav.scorers import LocalVerifiers


@dataclass(frozen=True, kw_only=True)
class LiteGuard:
    """Learn N queries and N verifiers, each a sigmoid of one linear layer, on one model of each side a step.

    Parameters
    ----------
    iterations, lr
        Number of steps, and the rate of Adam for queries and verifiers.
    target, negative
        Weights of the losses on the target and on negatives; that on positives has 1.
    valid
        1 for queries that a form accepts, as MetaV makes them.
    """

    needs: ClassVar[Needs] = Needs(answers="anything", suspects=True, data=False, snapshots=True)

    iterations: int = 1000
    lr: float = 0.001
    target: float = 0.5
    negative: float = 1.5
    valid: int = 0

    def __post_init__(self) -> None:
        check_at_least(iterations=(self.iterations, 1))
        check_flags(valid=self.valid)
        weights = (self.target, self.negative)
        if not 0 < self.lr < float("inf") or not all(0 <= weight < float("inf") for weight in weights):
            raise UsageError(
                f"expected a finite lr above 0 and finite weights of at least 0, got {self.lr}, {self.target} and "
                f"{self.negative}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Learn N = `queries` pairs; a suspect is called derived above a mean of 0.5."""
        check_learning(ensemble, queries, valid=self.valid)
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(queries, *ensemble.spec.input_shape, generator=generator).requires_grad_(True)
        check_gradients("liteguard", ensemble.target, box(w.detach()[:1], ensemble.spec, self.valid))
        with seeded(seed):
            verifiers = LocalVerifiers(queries, math.prod(ensemble.spec.output_shape))
        self._learn(ensemble, w, verifiers, generator)
        return Fingerprint(
            queries=box(w.detach(), ensemble.spec, self.valid),
            scorer=verifiers.eval().requires_grad_(False),
            spec=ensemble.spec,
            provenance={"scheme": "liteguard", "seed": seed, "options": asdict(self)},
        )

    def _learn(self, ensemble: Ensemble, w: Tensor, verifiers: LocalVerifiers, generator: torch.Generator) -> None:
        """Change `w` and `verifiers` in place; no pair depends on another, as each has its own loss."""
        optimiser = Adam([w, *verifiers.parameters()], self.lr)
        truth = torch.tensor([0.0, 1.0, 1.0])[:, None].expand(-1, len(w))
        weights = torch.tensor([self.negative, self.target, 1.0])[:, None]
        for _ in range(self.iterations):
            (negative,), (positive,) = (sample(side, 1, generator) for side in (ensemble.negatives, ensemble.positives))
            x = box(w, ensemble.spec, self.valid)
            answers = torch.stack([model(x).flatten(1) for model in (negative, ensemble.target, positive)])
            losses = binary_cross_entropy_with_logits(verifiers(answers), truth, reduction="none")
            optimiser.step(torch.autograd.grad((weights * losses).sum(), optimiser.parameters))
