"""Columns of a cohort's answers, and the choice of queries, against slow references that invert whole matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tiny
from metav.schemes.cohort_answers import (
    FAR,
    Conditioned,
    candidates,
    choose,
    moments,
    one_by_one,
)
from metav.scorers.cohort import COLUMNS, columns
from tiny import normal

RIDGE = 0.5


def drawn(seed: int = 0, queries: int = 6, size: int = 2, teachers: int = 20, copies: int = 5):
    """Moments of random answers whose columns are correlated."""
    mixed = normal(queries * size, queries * size, seed=seed)
    thefts = (normal(teachers + copies, queries * size, seed=seed + 1) @ mixed).reshape(-1, queries, size)
    independent = 3 * normal(7, queries, size, seed=seed + 2)
    return moments(thefts, teachers, independent, 0.1, 0.5), thefts, independent


def literal_sigma(thefts: Tensor, independent: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma and s over all columns, from covariance matrices as numpy has them."""
    c, own = thefts[:20].flatten(1), thefts[20:].flatten(1)
    mu, sd = c.mean(0), c.std(0) + 0.1
    c, w = (c - mu) / sd, (own - own.mean(0)) / sd
    b = FAR * ((independent.flatten(1) - mu) / sd / FAR).tanh()
    sigma = c.T @ c / len(c) + w.T @ w / len(w) + 0.25 * b.T @ b / len(b)
    return sigma, (own.mean(0) - mu) / sd


def test_conditioning_leaves_the_schur_complement():
    found, thefts, independent = drawn()
    sigma, s = literal_sigma(thefts, independent)
    left = Conditioned(found, RIDGE)
    left.pick(2)
    left.pick(4)
    added = left.known - 1
    at = [4, 5, 8, 9]
    given = torch.linalg.inv(sigma[at][:, at] + RIDGE * torch.eye(4))
    assert added == pytest.approx((s[at] @ given @ s[at]).item(), rel=1e-9)
    assert torch.allclose(left.s.flatten(), s - sigma[:, at] @ given @ s[at])
    remaining = sigma - sigma[:, at] @ given @ sigma[at]
    blocks = torch.stack([remaining[2 * q : 2 * q + 2, 2 * q : 2 * q + 2] for q in range(6)])
    assert torch.allclose(left.blocks, blocks, atol=1e-9)


def test_gains_are_the_information_of_each_query_alone():
    found, thefts, independent = drawn()
    sigma, s = literal_sigma(thefts, independent)
    for query, gain in enumerate(Conditioned(found, RIDGE).gains().tolist()):
        at = slice(2 * query, 2 * query + 2)
        block = sigma[at, at] + RIDGE * torch.eye(2)
        assert gain == pytest.approx((s[at] @ torch.linalg.inv(block) @ s[at]).item(), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_queries_are_chosen_as_by_inverting_all_of_sigma_for_each_candidate(size):
    kinds = [drawn(seed, queries=9, size=size)[0] for seed in (0, 10, 20)]
    allowed = torch.tensor([True] * 8 + [False])

    def told(kind, queries: list[int]) -> float:
        at = torch.tensor(queries, dtype=torch.long)
        sigma, s = kind.covariance(at, RIDGE), kind.s[at].flatten()
        return float(s @ torch.linalg.inv(sigma) @ s) if queries else 0.0

    expected: list[int] = []
    for _ in range(4):
        known = [1 + told(kind, expected) for kind in kinds]
        free = [query for query in range(8) if query not in expected]
        slopes = [
            sum((1 + told(kind, [*expected, query]) - now) / now for kind, now in zip(kinds, known, strict=True))
            for query in free
        ]
        expected.append(free[max(range(len(free)), key=slopes.__getitem__)])

    def picked(count: int) -> list[int]:
        return one_by_one([Conditioned(kind, RIDGE) for kind in kinds], count, allowed, Conditioned.relative_gains)

    assert picked(4) == expected
    assert sorted(picked(20)) == list(range(8))  # no more than there are
    chosen = choose(kinds, allowed, (4, 2), RIDGE, Conditioned.relative_gains)
    assert chosen[:4] == expected
    assert len(set(chosen)) == 6


def test_candidates_are_the_real_data_then_others_in_the_box():
    ensemble = tiny.regressors()
    x, real = candidates(ensemble, 50, 41, torch.Generator().manual_seed(0))
    assert len(x) == len(real) == 50 + 41
    assert all((ensemble.data == each).all(1).any() for each in x[real])
    assert len(x[real].unique(dim=0)) == 50
    assert len(candidates(ensemble, 1000, 0, torch.Generator())[0]) == 60
    others = x[50:]
    assert others.min() >= ensemble.spec.low
    assert others.max() <= ensemble.spec.high
    on_border = ((others == ensemble.spec.low) | (others == ensemble.spec.high)).all(1)
    assert 8 <= on_border.sum() <= 11
    assert not candidates(ensemble, 60, 0, torch.Generator())[1].logical_not().any()


def test_queries_tell_owners_apart():
    found, *_ = drawn()
    sigma = found.covariance(slice(None), 0.0)
    for query, gain in enumerate(Conditioned(found, RIDGE).apart().tolist()):
        at = slice(2 * query, 2 * query + 2)
        expected = torch.trace(sigma[at, at] @ torch.linalg.inv(sigma[at, at] + RIDGE * torch.eye(2)))
        assert gain == pytest.approx(expected.item(), rel=1e-9)
    first = int(Conditioned(found, RIDGE).apart().argmax())
    everything = torch.ones(6, dtype=torch.bool)
    assert one_by_one([Conditioned(found, RIDGE)], 3, everything, Conditioned.apart)[0] == first


def test_columns_of_doses_are_doses():
    doses = torch.randn(3, 5, 2)
    assert torch.equal(columns(doses, "regression"), doses)


def test_columns_of_probabilities_are_centred_logarithms():
    logits = torch.randn(3, 5, 4)
    found = columns(logits.softmax(-1), "probabilities")
    assert torch.allclose(found, logits - logits.mean(-1, keepdim=True), atol=1e-5)
    certain = columns(torch.tensor([[1.0, 0.0, 0.0]]), "probabilities")
    assert certain.isfinite().all()
    assert certain[0, 0] - certain[0, 1] == pytest.approx(math.log(1000))


def test_columns_of_labels_are_the_largest_probabilities():
    found = columns(torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]), "labels")
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_columns_of_images_keep_distances():
    images = torch.rand(2, 40, 1, 28, 28)
    found = columns(images, "images", 3)
    assert found.shape == (2, 40, COLUMNS)
    assert torch.equal(found, columns(images, "images", 3))
    apart = (images[0] - images[1]).flatten(1).square().sum(1).mean() / 784
    assert (found[0] - found[1]).square().mean() == pytest.approx(apart.item(), rel=0.5)
