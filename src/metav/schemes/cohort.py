"""Cohort: the target among models that its owner trained by the same recipe, each stolen from in the same ways.

metav's own scheme; docs/cohort.md has the idea and what it brings. Symbols, for one kind of theft k and answers as
columns: mu and sd are mean and spread of the thefts from the teachers T_j; C holds those thefts, s the mean of the
thefts from the target F and W the thefts from F around it, B independent models, all as deviations from mu in units
of sd. Sigma = Cov(C) + Cov(W) + w^2 E[B B'], whose last term is the second moment about mu, as how far independent
models are from the teachers is to count too; A = (Sigma + r I)^-1, and the information that queries give about k
is s' A s.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.base import Ensemble, Needs, check_at_least, check_flags, check_form, check_use, needs_of
from metav.schemes.cohort_answers import (
    Answers,
    Conditioned,
    Known,
    candidates,
    choose,
)
from metav.schemes.cohort_exact import rank
from metav.schemes.points import enough
from metav.scorers.cohort import LEAST_COPIES, LEAST_TEACHERS, CohortMatch, CohortRank
from metav.scorers.control import TINY, Matches


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Choose queries that thefts from the target answer otherwise than thefts from its teachers.

    Parameters
    ----------
    near
        Share of the queries that are chosen among real data alone; the others are chosen among all candidates.
    real, pool
        Candidates for queries: how many of the real data at most, and how many others.
    ridge, sharp
        What r is. A large one is for thefts of kinds that the cohort has not: `ridge` in the test of large matches.
        Thefts of its kinds are known the better the more teachers M and copies R there are: where queries are chosen,
        and in the test of matched controls, r is `sharp` (1/M + 1/R), but not more than `ridge`.
    independents
        The weight w of B.
    exact
        1 for a p-value that holds for strangers of any kind, on average over targets and teachers that were all trained
        in the same way (`metav.schemes.cohort_exact`): the rate is 1 - p and the threshold at p = `level`. Then
        `independents` decides nothing.
    level
        Share of strangers that may be accused. With `exact` at most so many of any kind are, on average over targets
        and teachers; against a single target it may be more. Else about so many of strangers like those that the
        construction knows, on average over independent models and thefts from teachers (those from one teacher weigh
        as one model): of a single kind it may be more. With few teachers or queries even the target may not reach a
        small level: give more, or choose a larger one.
    valid
        1 for queries that a form accepts: all candidates are the nearest valid rows.
    half
        1 for models that are asked in bfloat16 while queries are chosen, as for MetaV.
    labels
        1 for a classifier's suspects that answer with labels alone: of all probabilities the largest counts as 1.
    """

    needs: ClassVar[Needs] = Needs(answers="anything", gradients=False, suspects=True, cohort=True)

    near: float = 0.5
    real: int = 1000
    pool: int = 1000
    ridge: float = 0.5
    sharp: float = 2.5
    independents: float = 0.5
    exact: int = 0
    level: float = 0.005
    valid: int = 0
    half: int = 0
    labels: int = 0

    def __post_init__(self) -> None:
        check_at_least(real=(self.real, 1), pool=(self.pool, 0))
        check_flags(exact=self.exact, valid=self.valid, half=self.half, labels=self.labels)
        if not 0 < self.level < 1:
            raise UsageError(f"expected a level between 0 and 1, got {self.level}: change the option.")
        shares = (self.near, self.independents)
        if not all(0 < each < math.inf for each in (self.ridge, self.sharp)) or not all(
            0 <= each <= 1 for each in shares
        ):
            raise UsageError(
                "expected finite ridge and sharp above 0, near and independents in [0, 1], got "
                f"{self.ridge}, {self.sharp}, {self.near} and {self.independents}: change them."
            )

    def check_size(self, teachers: int, copies: int) -> None:
        """Refuse a cohort that is too small to make a fingerprint from, or for `level`."""
        if teachers < LEAST_TEACHERS:
            raise UsageError(f"expected at least {LEAST_TEACHERS} teachers, got {teachers}: plan a larger cohort.")
        if copies < LEAST_COPIES and not self.exact:
            raise UsageError(
                f"expected at least {LEAST_COPIES} copies of the target, got {copies}: plan a larger cohort."
            )
        if self.exact and (teachers + 1) * self.level <= 1:
            raise UsageError(
                f"expected at least {math.floor(1 / self.level)} teachers for a level of {self.level}, got "
                f"{teachers}: choose a larger level, or plan more teachers."
            )

    @torch.no_grad()
    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Choose N = `queries`, and keep the teachers' answers to them."""
        check_use("cohort(labels=1)" if self.labels else "cohort", needs_of(self), ensemble, queries)
        check_form(self.valid, ensemble.spec)
        if ensemble.cohort is None:
            raise UsageError("expected a matched-teacher cohort, got none: run metav zoo build with --cohort.")
        plain = next(iter(ensemble.cohort.kinds.values()))
        self.check_size(ensemble.cohort.teachers, len(plain(ensemble.data[:1])) - ensemble.cohort.teachers)
        near = round(self.near * queries)
        real = min(len(ensemble.data), self.real)
        enough(real, max(1, near))
        enough(real + self.pool, queries)
        generator = torch.Generator().manual_seed(seed)
        answers = Answers(ensemble, ensemble.cohort, self.independents, half=self.half > 0, labels=self.labels > 0)
        x, is_real = candidates(ensemble, self.real, self.pool, generator)
        x = ensemble.spec.nearest(x) if self.valid else x
        counts = (near, queries - near)
        scorer: CohortMatch | CohortRank
        if self.exact:
            x, scorer = rank(answers, x, is_real, counts, self.ridge)
        else:
            x, scorer = self._match(answers, x, is_real, counts)
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

    def _match(self, answers: Answers, x: Tensor, real: Tensor, counts: tuple[int, int]) -> tuple[Tensor, CohortMatch]:
        """Queries and their scorer, calibrated on independent models and on thefts from teachers and target.

        Each fold of these is met by queries and a scorer that were made from all others: models that had a part in
        either are told apart from the target more easily than a stranger is, or from strangers more easily.
        """
        known = answers.known(x)
        found: list[Matches] = []
        for rest, left_out in known.folds():
            picked = self._choose(rest, real, counts)
            scorer = self._scorer(answers, rest.at(picked), counts[0])
            alone, teachers, target = (each[..., picked, :].flatten(-2) for each in left_out)
            found.append((scorer.matches(alone), scorer.matches(teachers), scorer.matches(target)))
        x = x[self._choose(known, real, counts)]
        answers = replace(answers, half=False)  # as suspects are asked
        scorer = self._scorer(answers, answers.known(x), counts[0])
        scorer.calibrate(found)
        return x, scorer

    def _choose(self, known: Known, real: Tensor, counts: tuple[int, int]) -> list[int]:
        return choose(known.moments(), real, counts, self._ridges(known)["sharp"], Conditioned.relative_gains)

    def _ridges(self, known: Known) -> dict[str, float]:
        """What r is in each test."""
        copies = len(known.thefts[0]) - known.teachers
        return {"blunt": self.ridge, "sharp": min(self.ridge, self.sharp * (1 / known.teachers + 1 / copies))}

    def _scorer(self, answers: Answers, known: Known, near: int) -> CohortMatch:
        """The scorer of known answers, not calibrated. The match of a teacher is by mean and Sigma of all others."""
        kinds, ridges = known.moments(), self._ridges(known)
        queries, size = kinds[0].mu.shape
        teachers = len(kinds[0].c)
        rows = len(kinds[0].rows) + 1
        scorer = CohortMatch(queries, near, size, len(kinds), teachers, rows, answers.output, self.level)
        for row, kind in enumerate(kinds):
            scorer.mu[row], scorer.sd[row] = kind.mu.flatten(), kind.sd.flatten()
            for view, (first, last) in scorer.views().items():
                if first == last:
                    continue
                at = slice(first // size, last // size)
                basis, sigma = kind.span(at)
                owners = basis @ torch.cat([kind.s[None, at], kind.c[:, at]]).flatten(1).double().T
                alone = owners.clone()
                alone[:, 1:] *= teachers / (teachers - 1)  # T_j about the mean of all others
                scorer.get_buffer(f"basis_{view}")[row] = basis
                for test, ridge in ridges.items():
                    a = 1 / (torch.cat([sigma, sigma.new_zeros(1)]) + ridge)
                    weighed = a[:-1, None] * owners
                    # A_j T_j, by the Sigma of all others (Sherman and Morrison)
                    weighed[:, 1:] /= 1 - ((owners * weighed).sum(0)[1:] + 1) / teachers
                    length = (alone * weighed).sum(0).sqrt().clamp_min(TINY)
                    scorer.get_buffer(f"precision_{view}_{test}")[row] = a
                    scorer.get_buffer(f"owners_{view}_{test}")[row, :-1] = weighed / length
                    scorer.get_buffer(f"length_{view}_{test}")[row] = length
        return scorer
