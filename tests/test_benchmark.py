"""The split of a zoo, and what a cell may see of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import tiny
from metav import benchmark, protocols, schemes
from metav.cells import Cell
from metav.errors import SuspectError, UsageError
from metav.scenarios import Suspect
from metav.schemes import MetaV
from metav.scorers import MetaVerifier
from metav.suspects.changed_answers import AnswerNoise, Rounding, Top
from metav.verification import verify


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
    ("positives", "negatives", "words"),
    [
        (3, 9, "positive suspects for two halves .* got 3 in 3"),
        (4, 1, "negative suspects for two halves .* got 1 in 1"),
    ],
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


@pytest.mark.parametrize("scheme", ["metav(iterations=60)", "sac-m"])
def test_a_suspect_has_the_rate_that_verify_finds(scheme):
    """Whatever form its answers come in."""
    made = schemes.get(scheme).construct(tiny.classifiers(), queries=20, seed=0)
    made = replace(made, reference=tiny.classifiers().target(made.queries))
    for model in (*tiny.classifiers().positives, *tiny.classifiers().negatives):
        for change in (AnswerNoise(size=0.02, seed=1), Rounding(unit=0.1), Top(k=1, values=0)):
            suspect = change.wrap(model)
            assert benchmark.matching_rate(made, suspect(made.queries)) == verify(made, suspect).rate
        logits = model.logits(made.queries)
        assert benchmark.matching_rate(made, logits) == pytest.approx(verify(made, model).rate, abs=1e-5)
    assert benchmark.matching_rate(made, torch.full((20, 4), torch.nan)) == 0


def test_a_negative_that_is_computed_in_another_way_is_not_accused():
    """Thresholds are taken from models whose batch norm is folded; a suspect's own answers differ in the last bits."""
    made = schemes.get("modeldiff").construct(tiny.classifiers(), queries=20, seed=0)
    highest = max(made.score(model(made.queries)) for model in tiny.classifiers().negatives)
    assert highest + 5e-6 < made.threshold < highest + 2e-5


def test_a_fingerprint_that_cannot_judge_its_own_target_fails(smoke_zoo, monkeypatch):
    """Where every suspect is refused there is no figure: it is not that all of them are acquitted."""

    def broken(self, outputs):
        return float("nan")

    monkeypatch.setattr(MetaVerifier, "rate", broken)
    cell = Cell(scheme="metav(iterations=2)", repetition=0, queries=4)
    with pytest.raises(SuspectError, match="got NaN"):
        benchmark.run_cell(smoke_zoo, cell)
