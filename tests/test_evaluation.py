"""The metrics against their definitions, on any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metav import evaluation as ev

inside = st.floats(0.0101, 0.9899)
unit = st.floats(0, 1)
sides = st.tuples(st.lists(unit, min_size=1, max_size=30), st.lists(unit, min_size=1, max_size=30))
coarse = st.integers(0, 4).map(lambda k: k / 4)  # many ties
tied = st.tuples(st.lists(coarse, min_size=1, max_size=12), st.lists(coarse, min_size=1, max_size=12))


def brute_aruc(p, n, L=100):
    return np.mean([min(np.mean([s > k / L for s in p]), np.mean([s <= k / L for s in n])) for k in range(L + 1)])


@given(sides)
def test_aruc_is_its_definition(scores):
    p, n = scores
    assert ev.aruc(p, n) == pytest.approx(brute_aruc(p, n))


@given(sides)
def test_ceiling_of_the_grid_is_99_of_101_inside_the_open_interval(scores):
    p, n = (np.clip(side, 1e-9, 1 - 1e-9) for side in scores)
    assert ev.aruc(p, n) <= 99 / 101 + 1e-12


def test_a_perfect_scheme_reaches_the_ceilings():
    p, n = [1 - 1e-6] * 35, [1e-6] * 35
    assert ev.aruc(p, n) == pytest.approx(99 / 101)
    assert ev.aruc_exact(p, n) == pytest.approx(1, abs=1e-5)
    assert ev.auc(p, n) == 1
    assert ev.robustness_at_full_uniqueness(p, n) == 1


@given(sides)
def test_exact_aruc_is_the_limit_of_fine_grids(scores):
    p, n = scores
    jumps = len(p) + len(n)
    assert ev.aruc_exact(p, n) == pytest.approx(ev.aruc(p, n, points=20_000), abs=(jumps + 2) / 20_000)


@given(st.one_of(sides, tied))
def test_auc_counts_pairs_and_half_of_the_ties(scores):
    p, n = map(np.asarray, scores)
    pairs = (p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean()
    assert ev.auc(p, n) == pytest.approx(pairs)


@given(st.one_of(sides, tied))
def test_auc_is_symmetric_and_depends_on_ranks_alone(scores):
    p, n = scores
    assert ev.auc(p, n) == pytest.approx(1 - ev.auc(n, p))
    ranks = {value: rank for rank, value in enumerate(sorted({*p, *n}))}
    assert ev.auc([ranks[v] for v in p], [ranks[v] for v in n]) == pytest.approx(ev.auc(p, n))


@given(st.one_of(sides, tied), st.randoms())
def test_order_and_repetition_of_suspects_do_not_matter(scores, random):
    p, n = scores
    q, m = random.sample(p, len(p)) * 2, random.sample(n, len(n)) * 3
    for metric in (ev.aruc, ev.aruc_exact, ev.auc, ev.robustness_at_full_uniqueness):
        assert metric(q, m) == pytest.approx(metric(p, n))


@given(sides)
def test_robustness_falls_and_uniqueness_rises(scores):
    p, n = scores
    assert (np.diff(ev.robustness(p, ev.grid())) <= 0).all()
    assert (np.diff(ev.uniqueness(n, ev.grid())) >= 0).all()


@given(tied)
def test_robustness_at_full_uniqueness_is_the_best_threshold_without_false_accusation(scores):
    p, n = scores
    thresholds = np.array(sorted({*p, *n}))
    allowed = thresholds[ev.uniqueness(n, thresholds) == 1]
    best = ev.robustness(p, allowed).max()
    assert ev.robustness_at_full_uniqueness(p, n) == pytest.approx(best)


def test_a_tie_of_positive_and_negative_counts_for_neither():
    assert ev.robustness_at_full_uniqueness([0.7, 0.9], [0.7]) == 0.5
    assert ev.auc([0.7], [0.7]) == 0.5
    assert ev.aruc_exact([0.5], [0.5]) == 0


@given(st.lists(inside, min_size=2, max_size=8))
def test_interval_is_students(values):
    mean, half = ev.interval(values)
    assert mean == pytest.approx(np.mean(values))
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), max(stats.sem(values), 1e-300))
    assert half == pytest.approx((high - low) / 2, abs=1e-9)


def test_one_repetition_has_no_interval():
    assert ev.interval([0.5]) == (0.5, None)
