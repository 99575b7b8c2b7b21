"""DeepFoolFP: the examples that the smallest perturbations push over the target's boundary.

Wang and Chang: Fingerprinting Deep Neural Networks - a DeepFool Approach, ISCAS 2021; the perturbations are those of
Moosavi-Dezfooli et al., CVPR 2016, algorithm 2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metav import engine
from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.base import (
    Ensemble,
    Needs,
    calibrated,
    check_at_least,
    check_use,
    labels,
    log_probabilities,
)
from metav.schemes.points import starts
from metav.scorers import LabelAgreement
from metav.spec import Model, Spec


@dataclass(frozen=True, kw_only=True)
class DeepFoolFP:
    """Perturb examples until their class changes, and keep the N least perturbed.

    Parameters
    ----------
    steps
        Steps of DeepFool, at most.
    candidates
        How many of the likeliest classes are tried, the example's own included, as in foolbox.
    overshoot
        Share by which the final perturbation goes beyond the boundary.
    pool
        Examples perturbed for each query that is kept.
    definite
        What the largest probability exceeds the second by, at least, on a query that is kept; 0 for no such wish.
    """

    needs: ClassVar[Needs] = Needs(answers="labels")

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02
    pool: int = 3
    definite: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(steps=(self.steps, 1), candidates=(self.candidates, 2), pool=(self.pool, 1))
        if not 0 <= self.definite < 1 or not 0 <= self.overshoot < float("inf"):
            raise UsageError(
                f"expected definite in [0, 1) and a finite overshoot of at least 0, got {self.definite} and "
                f"{self.overshoot}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Keep N = `queries` of `pool` times as many examples.

        Raises
        ------
        UsageError
            Fewer are pushed over a boundary and left there with a definite class.
        """
        check_use("deepfoolfp", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        count = max(queries, min(self.pool * queries, len(ensemble.data)))
        x0 = starts(ensemble, count, generator)
        x, over = engine.in_blocks(
            lambda x0: deepfool(ensemble.target, x0, self.steps, self.candidates, self.overshoot, ensemble.spec), x0
        )
        with torch.no_grad():
            first, second = log_probabilities(ensemble.target, x).exp().topk(2, dim=1).values.unbind(1)
        norms = (x - x0).flatten(1).norm(dim=1)
        norms[~over | (first - second < self.definite)] = torch.inf
        kept = norms.argsort(stable=True)[:queries]
        found = int(norms[kept].isfinite().sum())
        if found < queries:
            raise UsageError(
                f"expected {queries} examples that a small perturbation pushes over a boundary, got {found} of "
                f"{count}: ask for fewer queries, a larger pool or a smaller value for definite."
            )
        provenance = {"scheme": "deepfoolfp", "seed": seed, "options": asdict(self)}
        return calibrated(ensemble, x[kept], LabelAgreement.of, provenance)


def deepfool(
    model: Model, x0: Tensor, steps: int, candidates: int, overshoot: float, spec: Spec
) -> tuple[Tensor, Tensor]:
    """DeepFool in the L2 norm for n points at once.

    Returns
    -------
    x, over
        Points (n, ...) clipped to the box, and whether (n,) their class is another than at `x0`. Points whose class has
        changed stand still.
    """
    with torch.no_grad():
        order = log_probabilities(model, x0).argsort(dim=1, descending=True)[:, :candidates]
    own = order[:, 0]
    x, total = x0.clone(), torch.zeros_like(x0)
    open_ = torch.arange(len(x0))
    for _ in range(steps):
        at = x[open_].requires_grad_(True)
        z = log_probabilities(model, at)
        still = (z.argmax(1) == own[open_]).nonzero()[:, 0]
        if not len(still):
            break
        f, w = differences(z, at, order[open_])
        open_, f, w = open_[still], f[still], w[still]
        norms = w.flatten(2).norm(dim=2)
        nearest = (f.abs() / (norms + 1e-8)).argmin(1)
        rows = torch.arange(len(open_))
        size = (f[rows, nearest].abs() + 1e-4) / (norms[rows, nearest].square() + 1e-12)
        total[open_] += size.view(-1, *[1] * (x.dim() - 1)) * w[rows, nearest]
        x[open_] = spec.clamp(x0[open_] + (1 + overshoot) * total[open_])
    return x, labels(model, x) != own


def differences(z: Tensor, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """f_k = Z_k - Z_own (n, c) and its gradients w_k (n, c, ...), for the classes in `order` (n, 1 + c), own first."""
    chosen = z.gather(1, order)
    f = chosen[:, 1:] - chosen[:, :1]
    slopes = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in f.unbind(1)]
    return f.detach(), torch.stack(slopes, 1)
