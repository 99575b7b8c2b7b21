"""ConferAE: adversarial examples that transfer to models derived from the target and to no others.

Lukas, Zhang, Kerschbaum: Deep Neural Network Fingerprinting by Conferrable Adversarial Examples, ICLR 2021, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from metav import engine
from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.optim import Adam
from metav.schemes.base import (
    Ensemble,
    Needs,
    calibrated,
    check_at_least,
    check_use,
    labels,
    log_probabilities,
)
from metav.schemes.points import classified, enough, width
from metav.scorers import LabelAgreement
from metav.spec import Model

LEVELS = {"conferrable": 0.95, "relaxed": 0.85}  # that a query should have, and to put up with where too few have it


@dataclass(frozen=True, kw_only=True)
class ConferAE:
    """Perturb examples so that target and surrogates (positives) agree on a class that references (negatives) deny.

    Parameters
    ----------
    members
        Surrogates, and as many references, drawn from the ensemble; all of it where it has fewer.
    eps
        Largest change of an input value, in widths of the input box.
    steps, lr
        Of Adam; its rate in widths of the input box.
    keep
        Probability with which each member takes part in a step.
    pool
        Examples perturbed for each query.
    """

    needs: ClassVar[Needs] = Needs(answers="labels", suspects=True)

    members: int = 5
    eps: float = 0.15
    steps: int = 300
    lr: float = 0.0005
    keep: float = 0.7
    pool: int = 1

    def __post_init__(self) -> None:
        check_at_least(members=(self.members, 1), steps=(self.steps, 1), pool=(self.pool, 1))
        if not 0 < self.eps <= 1 or not 0 < self.lr < float("inf") or not 0 < self.keep <= 1:
            raise UsageError(
                f"expected eps in (0, 1], a finite lr above 0 and keep in (0, 1], got {self.eps}, {self.lr} and "
                f"{self.keep}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Make N = `queries` conferrable examples from examples that the target classifies right.

        Those with the largest conferrability are kept, adversarial ones first: where N reach the level that the paper
        asks for, they are all above it. The provenance says how many did.
        """
        check_use("conferae", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        x0 = classified(ensemble, self.pool * queries, generator, right=True)
        enough(len(x0), queries)
        surrogates, references = (
            [side[index] for index in torch.randperm(len(side), generator=generator)[: self.members].tolist()]
            for side in (ensemble.positives, ensemble.negatives)
        )
        x = self.perturb(ensemble, x0, surrogates, references, generator)
        with torch.no_grad():
            scores = conferrability(mean(surrogates, x), mean(references, x))
        given = labels(ensemble.target, x)
        score = scores.gather(1, given[:, None])[:, 0]
        adversarial = given != labels(ensemble.target, x0)
        kept = (score + 2 * adversarial).argsort(descending=True, stable=True)[:queries]
        found = {name: int((adversarial & (score >= level)).sum()) for name, level in LEVELS.items()}
        provenance = {
            "scheme": "conferae",
            "seed": seed,
            "options": asdict(self),
            "candidates": {"examples": len(x0), "adversarial": int(adversarial.sum()), **found},
        }
        return calibrated(ensemble, x[kept], LabelAgreement.of, provenance)

    def perturb(
        self,
        ensemble: Ensemble,
        x0: Tensor,
        surrogates: Sequence[Model],
        references: Sequence[Model],
        generator: torch.Generator,
    ) -> Tensor:
        """Equation 6 for all examples at once, projected after each step."""
        drawn = [(self._draw(surrogates, generator), self._draw(references, generator)) for _ in range(self.steps)]
        (x,) = engine.in_blocks(partial(self._descend, ensemble, drawn), x0)
        return x

    def _descend(
        self, ensemble: Ensemble, drawn: Sequence[tuple[list[Model], list[Model]]], x0: Tensor
    ) -> tuple[Tensor]:
        """Move some examples by the surrogates and references `drawn` for each step."""
        spec, unit = ensemble.spec, width(ensemble.spec)
        delta = torch.zeros_like(x0, requires_grad=True)
        optimiser = Adam([delta], self.lr)  # in widths of the box
        clean = probabilities(ensemble.target, x0).detach()
        for surrogates, references in drawn:
            loss = conferrable_loss(ensemble.target, x0 + unit * delta, clean, surrogates, references)
            optimiser.step(torch.autograd.grad(loss, [delta]))
            with torch.no_grad():
                delta.clamp_(-self.eps, self.eps)
                delta.copy_((spec.clamp(x0 + unit * delta) - x0) / unit)
        return (spec.clamp(x0 + unit * delta).detach(),)

    def _draw(self, models: Sequence[Model], generator: torch.Generator) -> list[Model]:
        """A random sub-ensemble, drawn again while it is empty."""
        while True:
            drawn = torch.rand(len(models), generator=generator) < self.keep
            if drawn.any():
                return [model for model, taken in zip(models, drawn.tolist(), strict=True) if taken]


def conferrable_loss(
    target: Model, x: Tensor, clean: Tensor, surrogates: Sequence[Model], references: Sequence[Model]
) -> Tensor:
    """BCE(conf_c, 1) - CE(S(x0), S(x)) + CE(S(x), Surr(x)), mean over n points; c is the target's class at x."""
    p, surr = probabilities(target, x), mean(surrogates, x)
    conf = conferrability(surr, mean(references, x)).gather(1, p.argmax(1, keepdim=True))[:, 0]
    transferred = binary_cross_entropy(conf.clamp(0, 1), torch.ones_like(conf))
    return transferred - crossed(clean, p) + crossed(p, surr)


def conferrability(surrogates: Tensor, references: Tensor) -> Tensor:
    """Surr_t (1 - Ref_t), of mean probabilities (n, classes)."""
    return surrogates * (1 - references)


def crossed(p: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy of distributions q with respect to p, both (n, classes); mean over n."""
    return -(p * q.clamp_min(1e-12).log()).sum(1).mean()


def mean(models: Sequence[Model], x: Tensor) -> Tensor:
    """Mean probabilities (n, classes) of some models."""
    return torch.stack([probabilities(model, x) for model in models]).mean(0)


def probabilities(model: Model, x: Tensor) -> Tensor:
    """Probabilities (n, classes)."""
    return log_probabilities(model, x).exp()
