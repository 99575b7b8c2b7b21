"""IPGuard: points next to the target's decision boundaries.

Cao, Jia, Gong: IPGuard: Protecting Intellectual Property of Deep Neural Networks via Fingerprinting the Classification
Boundary, AsiaCCS 2021, section 4.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from metav import engine
from metav.errors import UsageError, unknown
from metav.fingerprint import Fingerprint
from metav.schemes.base import Ensemble, Needs, calibrated, check_at_least, check_use, log_probabilities
from metav.schemes.points import Rows, starts, width
from metav.scorers import LabelAgreement
from metav.spec import Model


@dataclass(frozen=True, kw_only=True)
class IPGuard:
    """Move examples towards the boundary between their class i and another class j, and record the class they get.

    Parameters
    ----------
    steps, lr
        At most so many steps of Adam for each point; its rate, in widths of the input box.
    margin
        k: how far beyond the boundary a point ends, in standard deviations of the target's logits, centred for each
        example.
    other
        j: a `random` class, or the `least` likely.
    """

    needs: ClassVar[Needs] = Needs(answers="labels")

    steps: int = 1000
    lr: float = 0.001
    margin: float = 1.0
    other: str = "random"

    def __post_init__(self) -> None:
        check_at_least(steps=(self.steps, 1))
        if self.other not in ("random", "least"):
            raise unknown("choice of class j", self.other, ("random", "least"))
        if not 0 < self.lr < float("inf") or not 0 <= self.margin < float("inf"):
            raise UsageError(
                f"expected a finite lr above 0 and a finite margin of at least 0, got {self.lr} and {self.margin}: "
                "change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Move N = `queries` random examples; their recorded classes are the target's where they end."""
        check_use("ipguard", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        x = starts(ensemble, queries, generator)
        with torch.no_grad():
            z = log_probabilities(ensemble.target, x)
        i = z.argmax(-1)
        if self.other == "least":
            j = z.scatter(-1, i[:, None], torch.inf).argmin(-1)
        else:
            j = (i + torch.randint(1, z.shape[1], i.shape, generator=generator)) % z.shape[1]
        x, _ = engine.in_blocks(partial(self.move, ensemble, k=self.margin * scale(z)), x, i, j)
        provenance = {"scheme": "ipguard", "seed": seed, "options": asdict(self)}
        return calibrated(ensemble, x, LabelAgreement.of, provenance)

    def move(self, ensemble: Ensemble, x: Tensor, i: Tensor, j: Tensor, k: float) -> tuple[Tensor, Tensor]:
        """Equation 4 for all points at once; those with loss 0 stand still.

        Returns the points (N, ...) and their losses (N,); of points that never stood still, before their last step.
        """
        rows = Rows(x, self.lr * width(ensemble.spec))
        losses = boundary_loss(ensemble.target, x, i, j, k).detach()
        for _ in range(self.steps):
            open_ = losses.nonzero()[:, 0]
            if not len(open_):
                break
            at = rows.x[open_].requires_grad_(True)
            loss = boundary_loss(ensemble.target, at, i[open_], j[open_], k)
            (slope,) = torch.autograd.grad(loss.sum(), at)
            losses[open_] = loss.detach()
            moving = loss.detach() > 0
            rows.step(open_[moving], slope[moving])
            rows.x.clamp_(*ensemble.spec.bounds())
        return rows.x, losses


def scale(z: Tensor) -> float:
    """Standard deviation of logits (n, classes), which count only up to a constant an input."""
    return (z - z.mean(1, keepdim=True)).std().item()


def boundary_loss(model: Model, x: Tensor, i: Tensor, j: Tensor, k: float) -> Tensor:
    """relu(Z_i - Z_j + k) + relu(max_{t not i, j} Z_t - Z_i) for each of n points; Z up to a constant an input."""
    z = log_probabilities(model, x)
    both = torch.stack([i, j], 1)
    z_i, z_j = z.gather(1, both).unbind(1)
    others = z.scatter(1, both, -torch.inf).amax(1)  # out of the maximum, not zero in it
    return (z_i - z_j + k).relu() + (others - z_i).relu()
