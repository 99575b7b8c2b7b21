"""The cohort scheme with a p-value: the target's rank among owners that nothing tells apart from it.

For a stranger the target's training is one more draw from the trainings of its teachers. Here queries are chosen and
matches are computed by rules that treat all M + 1 owners alike, so that a stranger's matches are exchangeable, and the
target's rank among them is a valid p-value (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005,
section 2.2).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metav.schemes.cohort_answers import Answers, Conditioned, Moments, choose, moments, usual_spread
from metav.scorers.cohort import CohortRank


def rank(answers: Answers, x: Tensor, real: Tensor, counts: tuple[int, int], ridge: float) -> tuple[Tensor, CohortRank]:
    """Choose queries of the candidates x, as `choose` does with `counts`, and make their scorer.

    The worth of a query is how far it tells the owners apart: what it would gain on the mean over all of them in the
    target's place.
    """
    floor = usual_spread(owners(answers, answers.plain()))

    def kinds(x: Tensor) -> list[Moments]:
        return [alike(owners(answers, answers.of(kind, x)), floor) for kind in answers.cohort.kinds]

    x = x[choose(kinds(x), real, counts, ridge, Conditioned.apart)]
    answers = replace(answers, half=False)  # as suspects are asked
    found = kinds(x)
    scorer = CohortRank(found[0].s.numel(), len(found), len(found[0].c), answers.output)
    for row, kind in enumerate(found):
        scorer.mu[row], scorer.sd[row] = kind.mu.flatten(), kind.sd.flatten()
        scorer.owners[row] = torch.linalg.solve(kind.covariance(slice(None), ridge), kind.c.flatten(1).T)
    return x, scorer


def owners(answers: Answers, thefts: Tensor) -> Tensor:
    """Of the answers (M + R, n, c) to one kind of theft those (M + 1, n, c) of one from each owner, target first."""
    teachers = answers.cohort.teachers
    return torch.cat([thefts[teachers : teachers + 1], thefts[:teachers]])


def alike(found: Tensor, floor: float) -> Moments:
    """The moments of one kind over all owners (M + 1, n, c): C holds them all, the target first, and s is 0."""
    mean = found.mean(0, keepdim=True)
    return moments(torch.cat([found, mean]), len(found), found[:0], floor, 0.0)
