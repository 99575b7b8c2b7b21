"""Metrics of matching rates: pure functions of the scores of positive and negative suspects.

All take one-dimensional sequences of rates in [0, 1], at least one a side. Definitions: MetaV, section 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Rates: TypeAlias = Sequence[float] | NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float64]


def robustness(positives: Rates, thresholds: Rates) -> Floats:
    """R(t): share of positives with a rate above each threshold t."""
    return np.asarray((np.asarray(positives)[:, None] > np.asarray(thresholds)).mean(0))


def uniqueness(negatives: Rates, thresholds: Rates) -> Floats:
    """U(t): share of negatives with a rate not above each threshold t."""
    return np.asarray((np.asarray(negatives)[:, None] <= np.asarray(thresholds)).mean(0))


def grid(points: int = 100) -> Floats:
    """The paper's thresholds {0, 1/L, ..., 1} for L = `points`."""
    return np.arange(points + 1) / points


def aruc(positives: Rates, negatives: Rates, points: int = 100) -> float:
    """Mean of min(R, U) over the paper's grid; at most 99/101 = 0.980 for rates strictly inside (0, 1)."""
    thresholds = grid(points)
    return float(np.minimum(robustness(positives, thresholds), uniqueness(negatives, thresholds)).mean())


def aruc_exact(positives: Rates, negatives: Rates) -> float:
    """Integral of min(R, U) over thresholds in [0, 1], exact: both are step functions that jump at rates."""
    steps = np.unique(np.concatenate([[0.0, 1.0], np.asarray(positives), np.asarray(negatives)]))
    height = np.minimum(robustness(positives, steps[:-1]), uniqueness(negatives, steps[:-1]))
    return float((height * np.diff(steps)).sum())


def auc(positives: Rates, negatives: Rates) -> float:
    """Probability that a positive's rate is above a negative's, ties counted half (Mann and Whitney)."""
    n, m = len(positives), len(negatives)
    ranks = stats.rankdata(np.concatenate([np.asarray(positives), np.asarray(negatives)]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def robustness_at_full_uniqueness(positives: Rates, negatives: Rates) -> float:
    """R at the lowest threshold where U is 1: the share of positives above every negative."""
    return float((np.asarray(positives) > np.max(negatives)).mean())


def interval(values: Rates) -> tuple[float, float | None]:
    """Mean of repetitions and the half-width of its 95 % interval (Student's t); None for a single value."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return float(found.mean()), None
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)
