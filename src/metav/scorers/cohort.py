"""How much more a suspect's answers match the target than models that the owner trained by the same recipe.

What suspect and target share because of data, task and size, the suspect shares with every such model, a teacher T_j,
too: for a stranger the target is one more of them, and its match is of the size of theirs. A model derived from the
target stands out. Each kind of theft was applied to target and teachers alike, and has figures of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from metav.scorers.control import LEAST_SPREAD, TINY, MatchedControl, Matches, Tail, rarity

LEAST_TEACHERS, LEAST_COPIES = 3, 2  # of a cohort; one copy of the target is left out
COLUMNS = 8  # of one image: projections of its pixels
LEAST = 1e-3  # probabilities below are taken for it: what an API that rounds, or leaves classes out, may hide
CLIP = 2.0  # deviations are squashed to so many of the cohort's spreads
TESTS = ("blunt", "sharp")
LIMIT = 0.9999  # of correlations
TOP = 3  # largest matches that are averaged
SLOPE = 2.0  # of the sigmoid


def columns(outputs: Tensor, output: str, axes: int = 1) -> Tensor:
    """Answers (..., N, *output_shape) of a kind of `output` as real numbers (..., N, c) to compare models by.

    A regression's values are taken as they are; probabilities by their logarithms, centred for each answer; labels are
    a 1 for the largest of these; images are random projections of their pixels, the same for all. Output shapes are of
    so many `axes`.
    """
    if output == "labels":
        return one_hot(outputs.argmax(-1), outputs.shape[-1]).float()
    if output == "probabilities":
        logs = outputs.clamp_min(LEAST).log()
        return logs - logs.mean(-1, keepdim=True)
    if output == "images":
        pixels = outputs.flatten(-axes)
        drawn = torch.randn(pixels.shape[-1], COLUMNS, generator=torch.Generator().manual_seed(0))
        return torch.matmul(pixels, drawn / pixels.shape[-1] ** 0.5)
    return outputs.flatten(-axes)


class CohortMatch(nn.Module):
    """Standardised matches of a suspect with the target, of each kind of theft, on three views of the queries, twice.

    The views are the first `near` queries, all others, and all. On a view v and for a kind k, with mu and sd as the
    mean and spread of the teachers' answers, S is the suspect's deviation from mu in units of sd, squashed. Its match
    with an owner O, the target F or a teacher T_j, is |O| artanh(S' A O / (|S| |O|)), lengths by A, too: for weak
    matches S' A O / |S|, while a match on answers of few degrees of freedom, such as a model's that answers the same to
    everything, is as strong as on many (Fisher's transformation of a correlation, Metron 1:3-32, 1921). z says by how
    many of the teachers' spreads F's is above their mean. For T_j A is A_j, and S in its product with A_j T_j is S_j,
    without T_j itself.

    Two tests look at z, each with an A of its own. One is for thefts of any kind (`blunt`, whose A has a large ridge):
    each z is divided by its spread over models that are known as strangers, and the largest three are averaged. One is
    for thefts of the cohort's kinds, however little they match (`sharp`; `MatchedControl`). Each has a tail law, learnt
    from known strangers; the smaller of the two p-values counts, twice. The rate is 0.5 where that is `level`.

    Parameters
    ----------
    queries, near, size
        N, how many of them are the near ones, and the columns of one answer.
    kinds, teachers
        K and M.
    rows
        How many deviations of one kind, of models and of F, span what is known.
    output
        What an answer is, as in `Spec`, or `labels` for the largest probability alone.
    level
        Share in (0, 1) of strangers that may be accused, on average over those known.
    """

    kind = "cohort-match"
    mu: Tensor  # (K, N size)
    sd: Tensor  # (K, N size)
    # besides, for each view of w columns, basis_VIEW (K, f, w): orthonormal, of all that is known, f = min(w, rows);
    # and of each test, in coordinates along it, and one across: precision_VIEW (K, f + 1), the diagonal of A,
    # owners_VIEW (K, f + 1, 1 + M), A_j O_j / |O_j|, F first, and length_VIEW (K, 1 + M), |O_j|
    spread: Tensor  # (3 K): of strangers' z in the blunt test, by view and kind
    begin: Tensor  # (2,): of both tests, where the tail of known strangers' values begins
    scale: Tensor  # (2,): of that tail
    count: Tensor  # (2,): from how many known strangers, those of one owner together
    known: Tensor  # (): of how many

    def __init__(
        self, queries: int, near: int, size: int, kinds: int, teachers: int, rows: int, output: str, level: float
    ) -> None:
        super().__init__()
        self.queries, self.near, self.size, self.output = queries, near, size, output
        self.kinds, self.teachers, self.rows, self.level = kinds, teachers, rows, level
        self.register_buffer("mu", torch.zeros(kinds, queries * size))
        self.register_buffer("sd", torch.ones(kinds, queries * size))
        for view, (first, last) in self.views().items():
            found = min(last - first, rows)
            self.register_buffer(f"basis_{view}", torch.zeros(kinds, found, last - first))
            for test in TESTS:
                self.register_buffer(f"precision_{view}_{test}", torch.ones(kinds, found + 1))
                self.register_buffer(f"owners_{view}_{test}", torch.zeros(kinds, found + 1, 1 + teachers))
                self.register_buffer(f"length_{view}_{test}", torch.zeros(kinds, 1 + teachers))
        self.width = len(self.views()) * kinds  # z of each test
        self.register_buffer("spread", torch.ones(self.width))
        self.control = MatchedControl(kinds, self.width)
        self.register_buffer("begin", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("count", torch.ones(2))
        self.register_buffer("known", torch.ones(()))

    def views(self) -> dict[str, tuple[int, int]]:
        """First column of each view, and the first that is no more of it."""
        near, width = self.near * self.size, self.queries * self.size
        return {"near": (0, near), "far": (near, width), "all": (0, width)}

    def matches(self, answers: Tensor) -> Tensor:
        """Matches z (..., 6 K) of models' answers (..., N size), of the blunt test first; there may be none."""
        if not answers.numel():
            return answers.new_zeros(*answers.shape[:-1], len(TESTS) * self.width)
        squashed = CLIP * torch.tanh((answers[..., None, :] - self.mu) / self.sd / CLIP)
        seen = {view: self._coordinates(view, squashed[..., slice(*at)]) for view, at in self.views().items()}
        return torch.cat([self._standardised(seen[view], f"{view}_{test}") for test in TESTS for view in seen], -1)

    def _coordinates(self, view: str, seen: Tensor) -> Tensor:
        """Deviations (..., K, w) along the basis, and how long the rest is: (..., K, f + 1)."""
        basis = self.get_buffer(f"basis_{view}")
        along = torch.einsum("...kd,kfd->...kf", seen, basis)
        across = seen - torch.einsum("...kf,kfd->...kd", along, basis)
        return torch.cat([along, across.norm(dim=-1, keepdim=True)], -1)

    def _standardised(self, seen: Tensor, test: str) -> Tensor:
        """Matches z (..., K) from coordinates (..., K, f + 1), of one view in one test."""
        length = self.get_buffer(f"length_{test}")
        mean = length / self.teachers  # (S_j - S)' A_j T_j / |T_j|: S_j is about the mean of the other teachers
        mean = torch.cat([torch.zeros_like(mean[:, :1]), mean[:, 1:]], 1)
        size = (seen.square() * self.get_buffer(f"precision_{test}")).sum(-1).sqrt()
        products = torch.einsum("...kf,kfo->...ko", seen, self.get_buffer(f"owners_{test}")) + mean
        found = length * (products / size[..., None].clamp_min(TINY)).clamp(-LIMIT, LIMIT).atanh()
        others = found[..., 1:]
        z: Tensor = (found[..., 0] - others.mean(-1)) / (others.std(-1) + TINY)
        return z

    def tests(self, matches: Tensor) -> Tensor:
        """The values (..., 2) of both tests, from matches (..., 6 K)."""
        blunt, sharp = matches.split(self.width, -1)
        largest = (blunt / self.spread).topk(min(TOP, self.width)).values.mean(-1)
        return torch.stack([largest, self.control(sharp)], -1)

    def calibrate(self, folds: Sequence[Matches]) -> None:
        """Learn from models that are known, given in parts: the values of each part are those of tests without it.

        The laws of large values are those of known strangers together: independent models, and thefts from teachers, of
        which all from one teacher count as much as one independent model.
        """
        values, weights = [], []
        for index, (independent, teachers, _) in enumerate(folds):
            self._fit([*folds[:index], *folds[index + 1 :]])
            for models, owners in ((independent[:, None], len(independent)), (teachers, len(teachers))):
                found = self.tests(models.flatten(0, 1))
                values.append(found)
                weights.append(torch.full((len(found),), owners / max(1, len(found))))
        self._fit(folds)
        for test, found in enumerate(torch.cat(values).T):
            law = Tail.of(found, torch.cat(weights))
            self.begin[test], self.scale[test] = law.begin, law.scale
            self.count[test] = law.count
            self.known.fill_(law.known)

    def _fit(self, folds: Sequence[Matches]) -> None:
        known = map(torch.cat, zip(*folds, strict=True))
        (independent, teachers, _), sharp = zip(*(each.split(self.width, -1) for each in known), strict=True)
        self.spread.copy_(torch.cat([independent, teachers.flatten(0, 1)]).std(0).clamp_min(LEAST_SPREAD))
        self.control.fit(*sharp)

    def above(self, matches: Tensor) -> Tensor:
        """By how much matches (..., 6 K) are rarer among strangers than `level`: a logarithm, of p-values."""
        rare = rarity(self.tests(matches), self.begin, self.scale, self.count, self.known).amax(-1)
        return rare - math.log(2) + math.log(self.level)

    def rate(self, outputs: Tensor) -> float:
        """Matching rate in [0, 1] of outputs (N, *output_shape)."""
        with torch.no_grad():
            above = self.above(self.matches(columns(outputs, self.output, outputs.dim() - 1).flatten()))
            return float(torch.sigmoid(SLOPE * above.double()))

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        names = ("queries", "near", "size", "kinds", "teachers", "rows", "output", "level")
        return {name: getattr(self, name) for name in names}


class CohortRank(nn.Module):
    """The target's rank among its teachers, by how well thefts from each match a suspect.

    Queries and score treat target and teachers alike. A stranger's answers depend on none of their trainings, so that
    all orders of their matches are equally likely: the share of owners that match at least as well as the target is a
    p-value of a false accusation, valid for strangers of any kind if the target was trained exactly as the teachers
    were, and on average over such targets and teachers. The rate is 1 - p; it is at most M / (M + 1).

    Parameters
    ----------
    columns
        N times the columns of one answer.
    kinds, owners
        K, and M + 1: the target first, then the teachers.
    output
        As for `CohortMatch`.
    """

    kind = "cohort-rank"
    mu: Tensor  # (K, columns)
    sd: Tensor  # (K, columns)
    owners: Tensor  # (K, columns, M + 1): A O_i

    def __init__(self, columns: int, kinds: int, owners: int, output: str) -> None:
        super().__init__()
        self.columns, self.kinds, self.count, self.output = columns, kinds, owners, output
        self.register_buffer("mu", torch.zeros(kinds, columns))
        self.register_buffer("sd", torch.ones(kinds, columns))
        self.register_buffer("owners", torch.zeros(kinds, columns, owners))

    def matches(self, answers: Tensor) -> Tensor:
        """Each owner's largest match over kinds, in that kind's spread over owners: (M + 1,) of answers (columns,)."""
        squashed = CLIP * torch.tanh((answers - self.mu) / self.sd / CLIP)
        found = torch.einsum("kd,kdo->ko", squashed, self.owners)
        return ((found - found.mean(1, keepdim=True)) / (found.std(1, keepdim=True) + TINY)).amax(0)

    def p_value(self, outputs: Tensor) -> float:
        """Share in [1 / (M + 1), 1] of owners whose match with outputs (N, *output_shape) is at least the target's."""
        with torch.no_grad():
            found = self.matches(columns(outputs, self.output, outputs.dim() - 1).flatten())
            return float((found >= found[0]).double().mean())

    def rate(self, outputs: Tensor) -> float:
        """1 - p, in [0, 1), of outputs (N, *output_shape)."""
        return 1 - self.p_value(outputs)

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"columns": self.columns, "kinds": self.kinds, "owners": self.count, "output": self.output}
