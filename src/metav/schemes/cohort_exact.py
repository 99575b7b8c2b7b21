"""The cohort scheme with a p-value: the target's rank among owners that nothing tells apart from it.

For a stranger the target's training is one more draw from the trainings of its teachers. Here queries are chosen and
matches are computed by rules that treat all M + 1 owners alike, so that a stranger's matches are exchangeable, and the
target's rank among them is a valid p-value (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005,
section 2.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metav.schemes.cohort_answers import DATA, FLOOR, Answers, Conditioned, Moments, moments
from metav.scorers.cohort import CohortRank


def rank(answers: Answers, x: Tensor, real: Tensor, queries: int, near: int, ridge: float) -> tuple[Tensor, CohortRank]:
    """Choose `queries` of the candidates x, `near` of them `real`, and make their scorer."""
    floor = usual_spread(answers)
    kinds = [alike(answers, kind, x, floor) for kind in answers.cohort.kinds]
    chosen = spread(kinds, near, real, ridge)
    free = torch.ones(len(x), dtype=torch.bool)
    free[chosen] = False
    chosen += spread(kinds, queries - near, free, ridge)
    x = x[chosen]
    kinds = [alike(answers, kind, x, floor) for kind in answers.cohort.kinds]
    scorer = CohortRank(kinds[0].s.numel(), len(kinds), len(kinds[0].c), answers.ensemble.spec.output)
    for row, kind in enumerate(kinds):
        scorer.mu[row], scorer.sd[row] = kind.mu.flatten(), kind.sd.flatten()
        scorer.owners[row] = torch.linalg.solve(kind.covariance(slice(None), ridge), kind.c.flatten(1).T)
    return x, scorer


def owners(answers: Answers, kind: str, x: Tensor) -> Tensor:
    """Answers (M + 1, n, c) of one theft from each owner, the target first."""
    thefts, teachers = answers.of(kind, x), answers.cohort.teachers
    return torch.cat([thefts[teachers : teachers + 1], thefts[:teachers]])


def usual_spread(answers: Answers) -> float:
    """What is added to each spread, as in `Answers`, but over all owners."""
    plain = owners(answers, next(iter(answers.cohort.kinds)), answers.ensemble.data[:DATA])
    return FLOOR * float(plain.std(0).median())


def alike(answers: Answers, kind: str, x: Tensor, floor: float) -> Moments:
    """The moments of one kind over all owners: C holds them all, the target first, and s is 0."""
    found = owners(answers, kind, x)
    mean = found.mean(0, keepdim=True)
    return moments(torch.cat([found, mean]), len(found), len(found), found[:0], floor, 0.0)


def spread(kinds: list[Moments], count: int, allowed: Tensor, ridge: float) -> list[int]:
    """Pick queries one by one: the one that tells most owners apart, given those picked.

    That is the sum over kinds of the trace of Sigma (Sigma + ridge I)^-1: what `choose` would gain on the mean over all
    owners in the target's place.
    """
    left = [Conditioned(kind, ridge) for kind in kinds]
    allowed = allowed.clone()
    picked: list[int] = []
    for _ in range(min(count, int(allowed.sum()))):
        gain = torch.stack([kind.apart() for kind in left]).sum(0)
        query = int(gain.masked_fill(~allowed, -1).argmax())
        picked.append(query)
        allowed[query] = False
        for kind in left:
            kind.pick(query)
    return picked
