"""Two things that the cohort's scorer learns from models it was not made from: how thefts match, and what is rare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FREEDOM = 50.0  # degrees of freedom: tails a little heavier than a normal law's
POOLED = 0.5  # weight of the scatter of all strangers in that of each kind, which is known from few
DIAGONAL = 0.3  # weight of the scatter without its correlations
LEAST_SPREAD = 1.0  # of strangers' matches; a handful of models may all be near the mean by chance
TINY = 1e-3  # of a spread of matches, and of the scale of values; and between sums of weights
TAIL, LEAST_TAIL = 0.1, 10  # share of strangers that the law of large values is learnt from; at least so many

Matches = tuple[Tensor, Tensor, Tensor]
"""Matches (n, D) of independent models, and (models, K, D) of thefts from teachers and from the target, D of a test."""


class MatchedControl(nn.Module):
    """How much likelier a suspect's matches are for a theft from the target than for a stranger, as a logarithm.

    A theft of kind k from the target is compared with its matched controls, thefts of kind k from teachers: matches of
    both are taken for multivariate t-distributions of the same scatter about two centres. A suspect of unknown kind is
    any kind of theft with equal chances, or, as a stranger, an independent model with a chance of one half.

    Parameters
    ----------
    kinds
        K.
    width
        D, the number of matches.
    """

    centres: Tensor  # (2 K + 1, D): of independent models, of thefts from teachers by kind, of those from the target
    precision: Tensor  # (K + 1, D, D): of independent models, then of each kind
    height: Tensor  # (K + 1): half of its logarithmic determinant

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.kinds, self.width = kinds, width
        self.register_buffer("centres", torch.zeros(2 * kinds + 1, width))
        self.register_buffer("precision", torch.eye(width).repeat(kinds + 1, 1, 1))
        self.register_buffer("height", torch.zeros(kinds + 1))

    def fit(self, independent: Tensor, teachers: Tensor, target: Tensor) -> None:
        """Learn from `Matches`: n may be 0, and there are at least two thefts from teachers and one from the target."""
        strangers = [independent, *teachers.unbind(1)]
        everyone = torch.cat(strangers).double()
        pooled = everyone.T.cov()
        for index, group in enumerate(strangers):
            own = group.double().T.cov() if len(group) > 1 else pooled
            scatter = torch.lerp(own, pooled, POOLED)
            alone = torch.diag(scatter.diagonal().clamp_min(LEAST_SPREAD**2))
            scatter = torch.lerp(scatter, alone, DIAGONAL)
            self.precision[index] = torch.linalg.inv(scatter)
            self.height[index] = -torch.linalg.slogdet(scatter).logabsdet / 2
            self.centres[index] = (group if len(group) else everyone).mean(0)
        self.centres[self.kinds + 1 :] = target.mean(0)

    def forward(self, matches: Tensor) -> Tensor:
        """The logarithm (...) of the ratio, from matches (..., D)."""
        scatters = [*range(self.kinds + 1), *range(1, self.kinds + 1)]
        deviation = matches[..., None, :] - self.centres
        size = torch.einsum("...gd,gde,...ge->...g", deviation, self.precision[scatters], deviation)
        likely = self.height[scatters] - (FREEDOM + self.width) / 2 * torch.log1p(size / FREEDOM)
        alone, teachers, target = likely.split([1, self.kinds, self.kinds], -1)
        mean = math.log(self.kinds)
        stranger = torch.logaddexp(alone[..., 0], teachers.logsumexp(-1) - mean) - math.log(2)
        ratio: Tensor = target.logsumexp(-1) - mean - stranger
        return ratio


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The law of large values: where their tail begins, its scale, how many owners it is known from, and of how many.

    Beyond its begin a tail is taken for exponential (Pickands, Annals of Statistics 3:119-131, 1975, with shape 0).
    """

    begin: Tensor
    scale: Tensor
    count: float
    known: float

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> Tail:
        """The law of values (n,), at least two, with `weights` (n,) in (0, 1]: those of one owner's models sum to 1."""
        known = float(weights.sum())
        values, order = values.sort(descending=True)
        weights = weights[order]
        wanted = min(max(LEAST_TAIL, TAIL * known), known - 1)
        last = min(int((weights.cumsum(0) < wanted - TINY).sum()) + 1, len(values) - 1)
        count = float(weights[:last].sum())
        scale = ((values[:last] - values[last]) * weights[:last]).sum().div(count).clamp_min(TINY)
        return cls(begin=values[last], scale=scale, count=count, known=known)


def rarity(values: Tensor, begin: Tensor, scale: Tensor, count: Tensor, known: Tensor) -> Tensor:
    """-log p of values: beyond the begin of a `Tail` p is the chance that one more value is at least as large.

    As begin and scale are known from `count` owners alone, that is the predictive law: Pareto's instead of the
    exponential one (Aitchison and Dunsmore, Statistical Prediction Analysis, 1975, section 2.3); an approximation where
    owners have several values. Values before the begin, which accuse nobody, go on linearly: there p is no chance.
    """
    beyond = (values - begin) / scale
    pareto = count * torch.log1p(beyond.clamp_min(0) / count) + beyond.clamp_max(0)
    return pareto - ((count + 1) / (known + 1)).log()
