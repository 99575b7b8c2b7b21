"""What the cohort scheme makes of the answers of its models; symbols as in `metav.schemes.cohort`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from typing import TypeAlias

import torch
from torch import Tensor

from metav.errors import SuspectError
from metav.schemes.base import CohortModels, Ensemble
from metav.scorers.cohort import columns
from metav.scorers.control import TINY
from metav.spec import Model
from metav.stacks import in_batches

FOLDS = 4  # of teachers and independent models: each is met by queries and a scorer that were made without it
FLOOR = 0.25  # added to each sd: a share of the teachers' usual spread on real data
DATA = 1000  # examples that the usual spread is taken over
TRACE = 1e-6  # of s among the rows of Sigma: its direction without its variance
FAR = 6.0  # independent models' deviations are squashed to so many sd


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Of one kind of theft at Q queries with c columns each: mu, sd and s (Q, c), C (M, Q, c), rows (f, Q, c).

    The sum of the products of `rows` with themselves is Sigma.
    """

    mu: Tensor
    sd: Tensor
    s: Tensor
    c: Tensor
    rows: Tensor

    def covariance(self, queries: slice, ridge: float) -> Tensor:
        """Sigma + ridge I, of the columns of some queries."""
        rows = self.rows[:, queries].flatten(1)
        return rows.T @ rows + ridge * torch.eye(rows.shape[1])

    def span(self, queries: slice) -> tuple[Tensor, Tensor]:
        """Orthonormal rows (min(f + 1, w), w) that span `rows` and s on some queries' w columns, and Sigma along them.

        They are eigenvectors of Sigma, so that the latter (min(f + 1, w),) is all of it.
        """
        rows, s = self.rows[:, queries].flatten(1).double(), self.s[queries].flatten().double()
        _, values, basis = torch.linalg.svd(torch.cat([rows, TRACE * s[None]]), full_matrices=False)
        return basis, values.square()


def moments(thefts: Tensor, teachers: int, independent: Tensor, floor: float, weight: float) -> Moments:
    """From the answers (M + R, Q, c) of thefts, the M `teachers`' first, and of independent models (n, Q, c)."""
    cohort, own = thefts[:teachers], thefts[teachers:]
    mu, sd = cohort.mean(0), cohort.std(0) + floor
    c, w = (cohort - mu) / sd, (own - own.mean(0)) / sd
    b = FAR * torch.tanh((independent - mu) / sd / FAR)
    rows = torch.cat([each / len(each) ** 0.5 for each in (c, w, weight * b)])
    return Moments(mu=mu, sd=sd, s=(own.mean(0) - mu) / sd, c=c, rows=rows)


def usual_spread(plain: Tensor) -> float:
    """What is added to each sd, from the answers (models, n, c) of models as they are to real data.

    Where models agree on most of what they answer, as they do on labels, the mean spread is the usual one.
    """
    spread = plain.std(0)
    return FLOOR * max(float(spread.median()) or float(spread.mean()), TINY)


def choose(kinds: Sequence[Moments], real: Tensor, counts: tuple[int, int], ridge: float, worth: Worth) -> list[int]:
    """Which of n candidates to ask: near queries from the `real` ones (n,), then far ones from all others.

    `counts` says how many of each. The two are chosen apart: each is a view on which suspects are judged.
    """
    near, far = counts
    picked = one_by_one([Conditioned(kind, ridge) for kind in kinds], near, real, worth)
    free = torch.ones(len(real), dtype=torch.bool)
    free[picked] = False
    return picked + one_by_one([Conditioned(kind, ridge) for kind in kinds], far, free, worth)


def one_by_one(kinds: Sequence[Conditioned], count: int, allowed: Tensor, worth: Worth) -> list[int]:
    """Pick `count` queries among those `allowed`: each the one of most worth, summed over kinds, given those before."""
    allowed = allowed.clone()
    picked: list[int] = []
    for _ in range(min(count, int(allowed.sum()))):
        total = torch.stack([worth(kind) for kind in kinds]).sum(0)
        query = int(total.masked_fill(~allowed, -1).argmax())
        picked.append(query)
        allowed[query] = False
        for kind in kinds:
            kind.pick(query)
    return picked


class Conditioned:
    """s and Sigma of one kind at all Q queries, given the answers to those picked (pivoted Cholesky).

    Sigma itself, (Q c, Q c), is never made: only its blocks for single queries, and its rows for those picked.
    """

    def __init__(self, kind: Moments, ridge: float) -> None:
        self.rows, self.s, self.ridge = kind.rows, kind.s.clone(), ridge
        self.blocks = torch.einsum("fqc,fqd->qcd", kind.rows, kind.rows)
        self.count = 0  # columns picked
        self.given = kind.rows[:0]  # at least `count` (Q, c): of each its covariances, divided by its spread
        self.known = 1.0  # 1 + the information of the queries picked

    def gains(self) -> Tensor:
        """Information (Q,) that each query would add."""
        found: Tensor = torch.linalg.solve(self._noisy(), self.s)
        return (self.s * found).sum(1)

    def relative_gains(self) -> Tensor:
        """By what share (Q,) each query would raise what is known: summed over kinds, their mean logarithm's slope."""
        return self.gains() / self.known

    def apart(self) -> Tensor:
        """Trace (Q,) of Sigma (Sigma + ridge I)^-1 for each query alone."""
        found: Tensor = torch.linalg.solve(self._noisy(), self.blocks)
        return found.diagonal(dim1=1, dim2=2).sum(1)

    def pick(self, query: int) -> None:
        """Condition on a query, one column after the other."""
        for column in range(self.s.shape[1]):
            given = self.given[: self.count]
            shared = torch.tensordot(self.rows[:, query, column], self.rows, 1)
            shared -= torch.tensordot(given[:, query, column], given, 1)
            variance, missed = float(shared[query, column]) + self.ridge, float(self.s[query, column])
            self.known += missed**2 / variance
            self.s -= shared * (missed / variance)
            self._give(shared / variance**0.5)

    def _give(self, shared: Tensor) -> None:
        if self.count == len(self.given):  # room for twice as many
            self.given = torch.cat([self.given, self.given.new_empty(self.count or 8, *shared.shape)])
        self.given[self.count] = shared
        self.count += 1
        self.blocks -= shared[:, :, None] * shared[:, None]

    def _noisy(self) -> Tensor:
        return self.blocks + self.ridge * torch.eye(self.s.shape[1])


Worth: TypeAlias = Callable[[Conditioned], Tensor]
"""What each query is worth to one kind, (Q,), given those picked."""


def candidates(ensemble: Ensemble, most: int, pool: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Candidates (n, ...) for queries: `most` of the public data, then `pool` others; and which of them (n,) are real.

    The others are, in equal shares, real data with noise, noise in all of the box, noise near its middle, and corners.
    """
    real, spec = ensemble.data[torch.randperm(len(ensemble.data), generator=generator)[:most]], ensemble.spec
    low, high = spec.bounds()
    middle, half = (high + low) / 2, (high - low) / 2

    def noise(count: int) -> Tensor:
        return torch.randn(count, *spec.input_shape, generator=generator)

    counts = [len(part) for part in torch.arange(pool).chunk(4)] + [0] * 4
    rows = torch.randint(len(real), (counts[0],), generator=generator)
    others = [
        real[rows] + 0.3 * half * noise(counts[0]),
        middle + half * noise(counts[1]).tanh(),
        middle + half * (0.4 * noise(counts[2])).tanh(),
        middle + half * noise(counts[3]).sign(),
    ]
    x = spec.clamp(torch.cat([real, *others]))
    return x, torch.arange(len(x)) < len(real)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What models that are known answered to n inputs, as columns.

    `thefts` has, for each kind, those (M + R, n, c) of the thefts, those from the M `teachers` first; `independent`
    those (models, n, c) of independent models. `floor` and `weight` are those of `moments`.
    """

    thefts: Sequence[Tensor]
    independent: Tensor
    teachers: int
    floor: float
    weight: float

    def moments(self) -> list[Moments]:
        """The moments of all kinds."""
        return [moments(each, self.teachers, self.independent, self.floor, self.weight) for each in self.thefts]

    def at(self, inputs: Sequence[int]) -> Known:
        """The answers to some of the inputs."""
        return replace(self, thefts=[each[:, inputs] for each in self.thefts], independent=self.independent[:, inputs])

    def folds(self) -> Iterator[tuple[Known, tuple[Tensor, Tensor, Tensor]]]:
        """Parts of all models: all but a part, and the answers of that part.

        These are (models, n, c) of its independent models and (models, K, n, c) of the thefts from its teachers and
        from its copies of the target. An independent model and one that was made from it may be in two parts; `floor`
        is that of all teachers.
        """
        count = min(FOLDS, self.teachers)
        owners = torch.arange(len(self.thefts[0])) % count
        is_teacher = torch.arange(len(owners)) < self.teachers
        thefts = torch.stack(list(self.thefts), 1)
        for fold in range(count):
            out, others = owners == fold, torch.arange(len(self.independent)) % count == fold
            rest = replace(
                self,
                thefts=[each[~out] for each in self.thefts],
                independent=self.independent[~others],
                teachers=int((is_teacher & ~out).sum()),
            )
            yield rest, (self.independent[others], thefts[out & is_teacher], thefts[out & ~is_teacher])


@dataclass(frozen=True)
class Answers:
    """The answers of all models that a construction may ask, as columns; in bfloat16 with `half`.

    With `labels` only the label of a classifier's answer is seen; `weight` is that of independent models.
    """

    ensemble: Ensemble
    cohort: CohortModels
    weight: float
    _: KW_ONLY
    half: bool = False
    labels: bool = False

    @property
    def output(self) -> str:
        """What an answer is: that of the spec, or `labels`."""
        return "labels" if self.labels else self.ensemble.spec.output

    @cached_property
    def floor(self) -> float:
        """What is added to each sd; the exact variant has one of its own."""
        return usual_spread(self.plain()[: self.cohort.teachers])

    def plain(self) -> Tensor:
        """Those (M + R, n, c) of the models as they are to real data."""
        return self.of(next(iter(self.cohort.kinds)), self.ensemble.data[:DATA])

    def of(self, kind: str, x: Tensor) -> Tensor:
        """Those (M + R, n, c) of the thefts of one kind to x (n, ...)."""
        return self.cohort.columns(kind, x, self._columns, f"{self.output}{' in bfloat16' if self.half else ''}")

    def known(self, x: Tensor) -> Known:
        """Those of all models to x (n, ...)."""
        independent = [partial(in_batches, model) for model in (*self.ensemble.negatives, *self.cohort.others)]
        return Known(
            thefts=[self.of(kind, x) for kind in self.cohort.kinds],
            independent=torch.stack([self._columns(model, x) for model in independent]),
            teachers=self.cohort.teachers,
            floor=self.floor,
            weight=self.weight,
        )

    def _columns(self, model: Model, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            outputs = model(x).float()
        if not torch.isfinite(outputs).all():
            raise SuspectError(
                "expected finite answers of all models, got NaN or infinity: check how they were trained."
            )
        return columns(outputs, self.output, len(self.ensemble.spec.output_shape))
