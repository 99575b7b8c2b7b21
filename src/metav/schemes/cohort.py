"""Cohort: the target among models that its owner trained by the same recipe, each stolen from in the same ways.

metav's own scheme; docs/cohort.md has the idea and what it brings. Symbols, for one kind of theft k and answers as
columns: mu and sd are mean and spread of the thefts from the teachers T_j; C holds those thefts, s the mean of the
thefts from the target F and W the thefts from F around it, B independent models, all as deviations in units of sd.
Sigma = Cov(C) + Cov(W) + a share of Cov(B), A = (Sigma + ridge I)^-1, and the information that queries give about k is
s' A s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.optim import Adam
from metav.schemes.base import Ensemble, Needs, check_at_least, check_form, check_use
from metav.schemes.cohort_answers import (
    LEAST_TEACHERS,
    Answers,
    Conditioned,
    Moments,
    candidates,
    choose,
    information,
)
from metav.schemes.cohort_exact import rank
from metav.schemes.metav import box, unbox
from metav.schemes.points import enough
from metav.scorers.cohort import CohortMatch, CohortRank

KINDS_A_STEP = 4


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Choose queries that thefts from the target answer otherwise than thefts from its teachers.

    Parameters
    ----------
    near
        Share of the queries that are real data.
    real, pool
        Candidates for queries: how many of the real data at most, and how many others, for queries that are not real.
    steps, lr
        Of Adam, on the queries that are not real.
    ridge, independents
        What is added to Cov(C) + Cov(W): to its diagonal; the weight of B.
    exact
        1 for a p-value that holds for any stranger (`metav.schemes.cohort_exact`): the rate is 1 - p and the threshold
        at p = `level`. Then `steps`, `lr` and `independents` decide nothing.
    valid
        1 for queries that a form accepts: all candidates are the nearest valid rows, refined as MetaV does.
    half
        1 for models that are asked in bfloat16, as for MetaV.
    """

    needs: ClassVar[Needs] = Needs(suspect="anything", suspects=True, cohort=True)

    near: float = 0.5
    real: int = 1000
    pool: int = 1000
    steps: int = 30
    lr: float = 0.02
    ridge: float = 0.5
    independents: float = 0.5
    exact: int = 0
    level: float = 0.01
    valid: int = 0
    half: int = 0

    def __post_init__(self) -> None:
        check_at_least(
            real=(self.real, 1),
            pool=(self.pool, 0),
            steps=(self.steps, 0),
            exact=(self.exact, 0),
            valid=(self.valid, 0),
            half=(self.half, 0),
        )
        if not 0 < self.level < 1:
            raise UsageError(f"expected a level between 0 and 1, got {self.level}: change the option.")
        positive, shares = (self.lr, self.ridge), (self.near, self.independents)
        if not all(0 < each < math.inf for each in positive) or not all(0 <= each <= 1 for each in shares):
            raise UsageError(
                "expected a finite lr and ridge above 0, near and independents in [0, 1], got "
                f"{self.lr}, {self.ridge}, {self.near} and {self.independents}: change them."
            )

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Choose N = `queries`, refine those that are not real data, and keep the teachers' answers to them."""
        check_use("cohort", self.needs, ensemble, queries)
        check_form(self.valid, ensemble.spec)
        if ensemble.cohort is None:
            raise UsageError("expected a matched-teacher cohort, got none: run metav zoo build with --cohort.")
        if ensemble.cohort.teachers < LEAST_TEACHERS:
            raise UsageError(
                f"expected at least {LEAST_TEACHERS} teachers, got {ensemble.cohort.teachers}: plan a larger cohort."
            )
        if self.exact and (ensemble.cohort.teachers + 1) * self.level <= 1:
            raise UsageError(
                f"expected at least {math.floor(1 / self.level)} teachers for a level of {self.level}, got "
                f"{ensemble.cohort.teachers}: choose a larger level."
            )
        near = round(self.near * queries)
        real = min(len(ensemble.data), self.real)
        enough(real, max(1, near))
        enough(real + self.pool, queries)
        generator = torch.Generator().manual_seed(seed)
        answers = Answers(ensemble, ensemble.cohort, self.independents, half=self.half > 0)
        x, is_real = candidates(ensemble, self.real, self.pool, generator)
        x = ensemble.spec.nearest(x) if self.valid else x
        scorer: CohortMatch | CohortRank
        if self.exact:
            with torch.no_grad():
                x, scorer = rank(answers, x, is_real, (near, queries - near), self.ridge)
        else:
            with torch.no_grad():
                kinds, worth = answers.known_moments(x), Conditioned.relative_gains
                x = choose(kinds, x, is_real, (near, queries - near), self.ridge, worth)
            x = self._refine(answers, x, near, generator)
            answers.half = False  # suspects are not asked in it either
            scorer = self._match(answers, x, near)
        return Fingerprint(
            queries=x,
            scorer=scorer.eval(),
            spec=ensemble.spec,
            threshold=1 - self.level if self.exact else 0.5,
            provenance={
                "scheme": "cohort",
                "seed": seed,
                "options": asdict(self),
                "teachers": ensemble.cohort.teachers,
            },
        )

    def _refine(self, answers: Answers, x: Tensor, near: int, generator: torch.Generator) -> Tensor:
        """Steps of the far queries up the mean logarithm of the information, about some kinds a step."""
        if near == len(x):
            return x
        kinds, real = list(answers.cohort.kinds), x[:near]
        w = unbox(x[near:], answers.ensemble, self.valid).requires_grad_(True)
        optimiser = Adam([w], self.lr)
        for _ in range(self.steps):
            x = torch.cat([real, box(w, answers.ensemble, self.valid)])
            drawn = torch.randperm(len(kinds), generator=generator)[:KINDS_A_STEP].tolist()
            slope = self._slope(answers, [kinds[index] for index in drawn], x.detach(), near)
            optimiser.step(torch.autograd.grad(x, [w], -slope))
        return torch.cat([real, box(w.detach(), answers.ensemble, self.valid)])

    def _slope(self, answers: Answers, kinds: Sequence[str], x: Tensor, near: int) -> Tensor:
        """Gradient by x of the mean logarithm of the information of all and of the far queries, about some kinds.

        By way of the answers, so that one kind of theft, or one model, is in memory at a time with all it computes.
        """
        asked: list[Callable[[Tensor], Tensor]] = [
            *(partial(answers.of, kind, held_out=False) for kind in kinds),
            *answers.each_independent(held_out=False),
        ]
        with torch.no_grad():
            given = [function(x) for function in asked]
        given = [each.requires_grad_(True) for each in given]
        independent = torch.stack(given[len(kinds) :])
        found = []
        for thefts in given[: len(kinds)]:
            kind = answers.moments(thefts, independent)
            found += [information(kind, self.ridge), information(kind.after(near), self.ridge)]
        slopes = torch.autograd.grad(torch.stack(found).log().mean(), given)
        total = torch.zeros_like(x)
        for function, slope in zip(asked, slopes, strict=True):
            at = x.clone().requires_grad_(True)
            total += torch.autograd.grad(function(at), [at], slope)[0]
        return total

    @torch.no_grad()
    def _match(self, answers: Answers, x: Tensor, near: int) -> CohortMatch:
        """The scorer, calibrated on independent models and on thefts from teachers.

        Each fold of these is met by a scorer that was made from all others: what a scorer was made from is told apart
        from the target by Sigma alone. A quarter of them had no part in the choice of queries either.
        """
        independent, thefts = answers.independent(x), [answers.of(kind, x) for kind in answers.cohort.kinds]
        found = []
        for teachers, others in answers.folds():
            made = [answers.moments(each, independent[~others], teachers) for each in thefts]
            scorer = self._scorer(answers, made, near)
            strangers = [independent[others], *(each[: len(teachers)][teachers] for each in thefts)]
            found.append(scorer.matches(torch.cat(strangers).flatten(1)))
        scorer = self._scorer(answers, [answers.moments(each, independent) for each in thefts], near)
        scorer.calibrate(torch.cat(found))
        return scorer

    def _scorer(self, answers: Answers, kinds: Sequence[Moments], near: int) -> CohortMatch:
        """The scorer of some moments, not calibrated. The match of a teacher is by mean and Sigma of all others."""
        queries, size = kinds[0].mu.shape
        teachers = len(kinds[0].c)
        scorer = CohortMatch(queries, near, size, len(kinds), teachers, answers.ensemble.spec.output)
        for row, kind in enumerate(kinds):
            scorer.mu[row], scorer.sd[row] = kind.mu.flatten(), kind.sd.flatten()
            for name, (first, last) in scorer.views().items():
                view = slice(first // size, last // size)
                if first == last:
                    continue
                s, c, sigma = kind.s[view].flatten(), kind.c[:, view].flatten(1), kind.covariance(view, self.ridge)
                weighed = torch.linalg.solve(sigma, torch.cat([s[:, None], c.T], 1))
                # without its own share of Sigma (Sherman and Morrison), and about the mean of all others
                own = 1 - ((c * weighed[:, 1:].T).sum(1) + 1) / teachers
                scorer.get_buffer(f"target_{name}")[row] = weighed[:, 0]
                scorer.get_buffer(f"cohort_{name}")[row] = weighed[:, 1:] / own
        return scorer
