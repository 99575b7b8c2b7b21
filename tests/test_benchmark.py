"""The split of a zoo, and what a cell may see of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from metav import benchmark, protocols, schemes
from metav.errors import UsageError
from metav.scenarios import Suspect
from metav.schemes import MetaV


def test_halves_are_disjoint_complete_and_drawn_anew(warfarin):
    known = []
    for seed in range(5):
        construction, test = protocols.split(warfarin.suspects, seed)
        assert Counter(construction) + Counter(test) == Counter(warfarin.suspects)
        for positive in (True, False):
            sizes = [sum(s.positive is positive for s in half) for half in (construction, test)]
            assert sizes[1] - sizes[0] in (0, 1)
        assert (construction, test) == protocols.split(warfarin.suspects, seed)
        known.append(frozenset(construction))
    assert len(set(known)) == 5


@pytest.mark.parametrize(
    ("positives", "negatives", "words"), [(3, 9, "four positive .* got 3"), (4, 1, "four negative")]
)
def test_too_few_suspects_on_a_side(positives, negatives, words):
    suspects = [Suspect(lineage=str(i), family="x", positive=i < positives) for i in range(positives + negatives)]
    with pytest.raises(UsageError, match=words):
        protocols.split(suspects, 0)


@dataclass(frozen=True, kw_only=True)
class Watching(MetaV):
    """Keeps the ensemble it was given."""

    seen: ClassVar[list] = []

    def construct(self, ensemble, *, queries, seed):
        self.seen.append(ensemble)
        return super().construct(ensemble, queries=queries, seed=seed)


def test_a_scheme_is_given_construction_suspects_alone(smoke_zoo, monkeypatch):
    monkeypatch.setitem(schemes.SCHEMES, "watching", Watching)
    cell = benchmark.Cell(scheme="watching(iterations=2)", repetition=3, queries=4)
    result = benchmark.run_cell(smoke_zoo, cell)
    construction, test = protocols.split(smoke_zoo.scenario.suspects, 3)
    assert [score.lineage for score in result.scores] == [suspect.lineage for suspect in test]
    x = smoke_zoo.scenario.parts["test"].x
    (ensemble,) = Watching.seen
    for side, positive in ((ensemble.positives, True), (ensemble.negatives, False)):
        expected = [smoke_zoo.load(s.lineage) for s in construction if s.positive is positive]
        assert len(side) == len(expected)
        assert all(torch.equal(a(x), b(x)) for a, b in zip(side, expected, strict=True))
