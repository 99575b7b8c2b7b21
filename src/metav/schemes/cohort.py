"""Cohort: the target among models that its owner trained by the same recipe, each stolen from in the same ways.

metav's own scheme; docs/cohort.md has the idea and what it brings. Symbols, for one kind of theft k and answers as
columns: mu and sd are mean and spread of the thefts from the teachers T_j; C holds those thefts, s the mean of the
thefts from the target F and W the thefts from F around it, B independent models, all as deviations in units of sd.
Sigma = Cov(C) + Cov(W) + a share of Cov(B), A = (Sigma + ridge I)^-1, and the information that queries give about k is
s' A s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metav.errors import SuspectError, UsageError
from metav.fingerprint import Fingerprint
from metav.optim import Adam
from metav.schemes.base import CohortModels, Ensemble, Needs, check_at_least, check_use
from metav.schemes.metav import box, unbox
from metav.schemes.points import enough
from metav.scorers.cohort import CohortMatch, columns

HELD_OUT = 8  # one of so many teachers is left out of C; thefts from it are independent models to calibrate on
FLOOR = 0.25  # added to each sd: a share of the teachers' usual spread on real data
FAR = 6.0  # independent models' deviations are squashed to so many sd
KINDS_A_STEP = 4


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Choose queries that thefts from the target answer otherwise than thefts from its teachers.

    Parameters
    ----------
    near
        Share of the queries that are real data.
    pool
        Candidates for the other queries besides the real data.
    steps, lr
        Of Adam, on the queries that are not real.
    ridge, independents
        What is added to Cov(C) + Cov(W): to its diagonal; the weight of B.
    """

    needs: ClassVar[Needs] = Needs(suspect="anything", suspects=True, cohort=True)

    near: float = 0.5
    pool: int = 3400
    steps: int = 30
    lr: float = 0.02
    ridge: float = 0.5
    independents: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(pool=(self.pool, 0), steps=(self.steps, 0))
        positive, shares = (self.lr, self.ridge), (self.near, self.independents)
        if not all(0 < each < math.inf for each in positive) or not all(0 <= each <= 1 for each in shares):
            raise UsageError(
                "expected a finite lr and ridge above 0, near and independents in [0, 1], got "
                f"{self.lr}, {self.ridge}, {self.near} and {self.independents}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Choose N = `queries`, refine those that are not real data, and keep the teachers' answers to them."""
        check_use("cohort", self.needs, ensemble, queries)
        if ensemble.cohort is None:
            raise UsageError("expected a matched-teacher cohort, got none: run metav zoo build with --cohort.")
        near = round(self.near * queries)
        enough(len(ensemble.data), max(1, near))
        enough(len(ensemble.data) + self.pool, queries)
        generator = torch.Generator().manual_seed(seed)
        answers = Answers(ensemble, ensemble.cohort, self.independents)
        with torch.no_grad():
            x = self._choose(answers, queries, near, generator)
        x = self._refine(answers, x, near, generator)
        with torch.no_grad():
            scorer = self._scorer(answers, x, near)
        provenance = {"scheme": "cohort", "seed": seed, "options": asdict(self), "teachers": ensemble.cohort.teachers}
        return Fingerprint(queries=x, scorer=scorer.eval(), spec=ensemble.spec, provenance=provenance)

    def _choose(self, answers: Answers, queries: int, near: int, generator: torch.Generator) -> Tensor:
        """Real data for the near queries, anything for the far ones."""
        x, real = candidates(answers.ensemble, self.pool, generator)
        kinds = list(answers.all_moments(x).values())
        chosen = choose(kinds, near, real, self.ridge)
        free = torch.ones(len(x), dtype=torch.bool)
        free[chosen] = False
        return x[chosen + choose(kinds, queries - near, free, self.ridge)]

    def _refine(self, answers: Answers, x: Tensor, near: int, generator: torch.Generator) -> Tensor:
        """Steps of the far queries up the mean logarithm of the information, about some kinds a step."""
        if near == len(x):
            return x
        kinds, real = list(answers.cohort.kinds), x[:near]
        w = unbox(x[near:], answers.ensemble).requires_grad_(True)
        optimiser = Adam([w], self.lr)
        for _ in range(self.steps):
            x = torch.cat([real, box(w, answers.ensemble)])
            independent = answers.independent(x)
            found = []
            for index in torch.randperm(len(kinds), generator=generator)[:KINDS_A_STEP].tolist():
                kind = answers.moments(kinds[index], x, independent)
                found += [information(kind, self.ridge), information(kind.after(near), self.ridge)]
            optimiser.step(torch.autograd.grad(-torch.stack(found).log().mean(), [w]))
        return torch.cat([real, box(w.detach(), answers.ensemble)])

    def _scorer(self, answers: Answers, x: Tensor, near: int) -> CohortMatch:
        cohort, output = answers.cohort, answers.ensemble.spec.output
        independent = answers.independent(x)
        kinds = {kind: answers.moments(kind, x, independent) for kind in cohort.kinds}
        size = independent.shape[-1]
        scorer = CohortMatch(len(x), near, size, len(kinds), answers.fitted, output)
        for row, kind in enumerate(kinds.values()):
            scorer.mu[row], scorer.sd[row] = kind.mu.flatten(), kind.sd.flatten()
            for name, (first, last) in scorer.views().items():
                view = slice(first // size, last // size)
                if first == last:
                    continue
                s, c, sigma = kind.s[view].flatten(), kind.c[:, view].flatten(1), kind.covariance(view, self.ridge)
                weighed = torch.linalg.solve(sigma, torch.cat([s[:, None], c.T], 1))
                scorer.get_buffer(f"target_{name}")[row] = weighed[:, 0]
                scorer.get_buffer(f"cohort_{name}")[row] = weighed[:, 1:]
        held_out = [answers.of(kind, x)[answers.fitted : cohort.teachers] for kind in kinds]
        scorer.calibrate(torch.cat([independent, *held_out]).flatten(1))
        return scorer


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

    def after(self, first: int) -> Moments:
        """Those of the queries from `first` on."""
        mu, sd, s = (each[first:] for each in (self.mu, self.sd, self.s))
        return Moments(mu=mu, sd=sd, s=s, c=self.c[:, first:], rows=self.rows[:, first:])


def moments(thefts: Tensor, teachers: int, fitted: int, independent: Tensor, floor: float, weight: float) -> Moments:
    """From the answers (M + R, Q, c) of thefts, the teachers' first, and of independent models (n, Q, c).

    The first `fitted` of the M `teachers` make up the cohort.
    """
    cohort, own = thefts[:fitted], thefts[teachers:]
    mu, sd = cohort.mean(0), cohort.std(0) + floor
    c, w = (cohort - mu) / sd, (own - own.mean(0)) / sd
    b = FAR * torch.tanh((independent - mu) / sd / FAR)
    rows = torch.cat([each / len(each) ** 0.5 for each in (c, w, weight * b)])
    return Moments(mu=mu, sd=sd, s=(own.mean(0) - mu) / sd, c=c, rows=rows)


def information(kind: Moments, ridge: float) -> Tensor:
    """S' A s of all queries together."""
    s = kind.s.flatten()
    weighed: Tensor = torch.linalg.solve(kind.covariance(slice(None), ridge), s)
    return s @ weighed


def choose(kinds: Sequence[Moments], count: int, allowed: Tensor, ridge: float) -> list[int]:
    """Pick queries one by one: the one that most raises the mean logarithm over kinds of 1 + information.

    Given the columns of the queries picked, s and Sigma of all others are conditioned on them (pivoted Cholesky).
    """
    left = [(kind.rows.clone(), kind.s.clone()) for kind in kinds]
    known = [1.0] * len(kinds)
    allowed = allowed.clone()
    picked: list[int] = []
    for _ in range(min(count, int(allowed.sum()))):
        slope = torch.stack([gains(rows, s, ridge) / now for (rows, s), now in zip(left, known, strict=True)]).sum(0)
        query = int(slope.masked_fill(~allowed, -1).argmax())
        picked.append(query)
        allowed[query] = False
        for index, (rows, s) in enumerate(left):
            known[index] += sum(condition(rows, s, query, column, ridge) for column in range(s.shape[1]))
    return picked


def gains(rows: Tensor, s: Tensor, ridge: float) -> Tensor:
    """Information (Q,) that each query would add alone, from rows (f, Q, c) and s (Q, c)."""
    sigma = torch.einsum("fqc,fqd->qcd", rows, rows) + ridge * torch.eye(s.shape[1])
    found: Tensor = torch.linalg.solve(sigma, s)
    return (s * found).sum(1)


def condition(rows: Tensor, s: Tensor, query: int, column: int, ridge: float) -> float:
    """Condition `rows` (f, Q, c) and `s` (Q, c), in place, on one column of a query; return what it adds."""
    f = rows[:, query, column].clone()
    square = float(f @ f)
    variance, missed = square + ridge, float(s[query, column])
    shared = torch.einsum("f,fqc->qc", f, rows)
    s -= shared * (missed / variance)
    if square > 0:
        shrink = (1 - (ridge / variance) ** 0.5) / square  # so that the rows' products lose shared shared' / variance
        rows -= shrink * f[:, None, None] * shared
    return missed**2 / variance


def candidates(ensemble: Ensemble, pool: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Candidates (n, ...) for queries: the public data, then `pool` others; and which of them (n,) are real.

    The others are, in equal shares, real data with noise, noise in all of the box, noise near its middle, and corners.
    """
    real, spec = ensemble.data, ensemble.spec
    middle, half = (spec.high + spec.low) / 2, (spec.high - spec.low) / 2

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
    x = torch.cat([real, *others]).clamp(spec.low, spec.high)
    return x, torch.arange(len(x)) < len(real)


class Answers:
    """The answers of all models that a construction may ask, as columns."""

    def __init__(self, ensemble: Ensemble, cohort: CohortModels, weight: float) -> None:
        self.ensemble, self.cohort, self.weight, self.floor = ensemble, cohort, weight, 0.0
        self.fitted = cohort.teachers - max(1, cohort.teachers // HELD_OUT)
        with torch.no_grad():
            plain = self.of(next(iter(cohort.kinds)), ensemble.data[:1000])
        self.floor = FLOOR * float(plain[: self.fitted].std(0).median())

    def of(self, kind: str, x: Tensor) -> Tensor:
        """Those (M + R, n, c) of the thefts of one kind to x (n, ...)."""
        return self._columns(self.cohort.kinds[kind](x))

    def independent(self, x: Tensor) -> Tensor:
        """Those (models, n, c) of the independent models."""
        return self._columns(torch.stack([model(x) for model in (*self.ensemble.negatives, *self.cohort.others)]))

    def moments(self, kind: str, x: Tensor, independent: Tensor) -> Moments:
        """The moments of one kind at x."""
        return moments(self.of(kind, x), self.cohort.teachers, self.fitted, independent, self.floor, self.weight)

    def all_moments(self, x: Tensor) -> dict[str, Moments]:
        """The moments of all kinds at x."""
        independent = self.independent(x)
        return {kind: self.moments(kind, x, independent) for kind in self.cohort.kinds}

    def _columns(self, outputs: Tensor) -> Tensor:
        if not torch.isfinite(outputs).all():
            raise SuspectError(
                "expected finite answers of all models, got NaN or infinity: check how they were trained."
            )
        return columns(outputs, self.ensemble.spec.output)
