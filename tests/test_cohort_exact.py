"""The exact variant of the cohort scheme: target and teachers are treated alike, so that a rank is a p-value."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch

import tiny
from metav import schemes
from metav.errors import UsageError
from metav.schemes.base import CohortModels
from metav.scorers.cohort import CohortRank
from metav.stacks import together
from metav.verification import verify

EXACT = "cohort(pool=100,exact=1,level=0.1)"


def owned(owner: int, models: list) -> CohortModels:
    """A cohort in which one of some models is the target and all others are its teachers, in their order."""
    teachers = [model for index, model in enumerate(models) if index != owner]

    def kind(seed: int):
        stolen = [tiny.near(model, tiny.regressor(0), seed + index) for index, model in enumerate(models)]
        return together([each for index, each in enumerate(stolen) if index != owner] + [stolen[owner]])

    kinds = {"as it is": together([*teachers, models[owner]]), "noise": kind(300), "other noise": kind(400)}
    return CohortModels(teachers=len(teachers), kinds=kinds)


@pytest.fixture(scope="module")
def models() -> list:
    return [tiny.frozen(tiny.regressor(seed)) for seed in range(20)]


def test_target_and_teachers_are_treated_alike(models):
    """With another of them as the target, queries are the same and the matches change places."""
    ensemble, stranger = tiny.regressors(), tiny.frozen(tiny.regressor(999))
    p_values, queries = [], []
    for owner in range(len(models)):
        given = replace(ensemble, target=models[owner], cohort=owned(owner, models))
        found = schemes.get(EXACT).construct(given, queries=15, seed=0)
        queries.append(found.queries)
        p_values.append(found.scorer.p_value(stranger(found.queries)))
    assert all(torch.equal(each, queries[0]) for each in queries)
    assert sorted(p_values) == pytest.approx([(index + 1) / 20 for index in range(20)])


def test_a_theft_has_the_smallest_p_value_and_is_called_derived(models):
    given = replace(tiny.regressors(), target=models[0], cohort=owned(0, models))
    found = schemes.get(EXACT).construct(given, queries=15, seed=0)
    assert found.threshold == pytest.approx(0.9)
    for seed in range(10):
        outputs = tiny.near(models[0], tiny.regressor(0), 800 + seed)(found.queries)
        assert found.scorer.p_value(outputs) == pytest.approx(1 / 20)
        assert found.score(outputs) == pytest.approx(19 / 20)
    assert verify(found, models[0]).derived


def test_a_level_that_no_rank_can_reach_is_a_sentence():
    with pytest.raises(UsageError, match=r"expected at least 200 teachers for a level of 0.005, got 48: "):
        schemes.get("cohort(exact=1)").construct(tiny.regressors(), queries=5, seed=0)


def test_matches_with_owners_are_those_of_a_literal_loop():
    """Each owner's largest match over kinds, in that kind's spread over owners."""
    generator = torch.Generator().manual_seed(0)
    scorer = CohortRank(columns=6, kinds=2, owners=5, output="regression")
    for buffer in (scorer.mu, scorer.owners):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    scorer.sd.copy_(0.5 + torch.rand(scorer.sd.shape, generator=generator))
    answers = 3 * torch.randn(6, generator=generator)
    largest = []
    for owner in range(5):
        found = []
        for kind in range(2):
            deviation = [
                2 * math.tanh(float((answers[c] - scorer.mu[kind, c]) / scorer.sd[kind, c]) / 2) for c in range(6)
            ]
            products = [sum(deviation[c] * float(scorer.owners[kind, c, each]) for c in range(6)) for each in range(5)]
            found.append((products[owner] - statistics.mean(products)) / (statistics.stdev(products) + 1e-3))
        largest.append(max(found))
    assert scorer.matches(answers).tolist() == pytest.approx(largest, rel=1e-4)
    better = sum(each >= largest[0] for each in largest)
    assert scorer.p_value(answers.reshape(6, 1)) == pytest.approx(better / 5)


def test_answers_that_match_all_owners_alike_are_no_evidence(models):
    scorer = CohortRank(columns=4, kinds=2, owners=5, output="regression")
    assert scorer.p_value(torch.zeros(4, 1)) == 1
    assert scorer.rate(torch.zeros(4, 1)) == 0
