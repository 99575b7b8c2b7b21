"""The laws of rare values and the matched control, on drawn numbers and against a literal reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch import Tensor

from metav.scorers.control import MatchedControl, Tail
from tiny import normal, rare


@pytest.mark.parametrize("law", ["gumbel", "exponential", "normal"])
@pytest.mark.parametrize("known", [20, 40, 400])
def test_p_values_hold_for_few_known_strangers_too(law, known):
    """Many calibrations on a few values each, and one more value each."""
    uniform = torch.rand(3000, known + 1, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6).double()
    values = {
        "gumbel": 5 - 2 * (-uniform.log()).log(),
        "exponential": -3 * uniform.log(),
        "normal": normal(3000, known + 1),
    }[law]
    p = torch.stack([rare(each[-1], Tail.of(each[:-1], torch.ones(known))) for each in values])
    for level in (0.05, 0.01):
        assert 0.3 * level < (p <= level).double().mean() <= 1.5 * level


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_p_values_hold_where_an_owner_has_several_models(common):
    """Known are 40 owners of six models each, which hang together or not; met is one model of one more owner."""
    owners, thefts = normal(2000, 41, 1, seed=1), normal(2000, 41, 6, seed=2)
    values = common * owners + (1 - common**2) ** 0.5 * thefts
    weights = torch.full((40 * 6,), 1 / 6)
    p = torch.stack([rare(each[-1, 0], Tail.of(each[:-1].flatten(), weights)) for each in values])
    for level, least in ((0.05, 0.01), (0.01, 0.0)):
        assert least <= (p <= level).double().mean() <= 1.5 * level


def test_the_law_of_few_values_is_paretos():
    law = Tail.of(torch.tensor([3.0, 1.0, 2.0]), torch.ones(3))
    assert (float(law.begin), float(law.scale), law.count, law.known) == (1.0, 1.5, 2, 3)
    p = rare(torch.tensor([1.0, 4.0, 0.0]), law)
    assert p.tolist() == pytest.approx([3 / 4, 3 / 4 * (1 + 2 / 2) ** -2, 3 / 4 * math.exp(1 / 1.5)])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 5, 1, 0, 4, 2]])
def test_models_of_one_owner_count_once_in_the_law(order):
    """One owner's two models, and four of one model each: half of a tail of three owners is the first's."""
    values, weights = torch.tensor([9.0, 8.0, 7.0, 6.0, 2.0, 1.0]), torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0, 1.0])
    law = Tail.of(values[order], weights[order])
    assert (law.count, law.known) == (4, 5)
    assert (float(law.begin), float(law.scale)) == (1.0, (8 / 2 + 7 / 2 + 6 + 5 + 1) / 4)


def literal_ratio(z: Tensor, strangers: list[Tensor], target: Tensor) -> float:
    """The logarithm of the ratio, by its docstring, with scipy's t-distributions."""
    pooled = np.cov(torch.cat(strangers).numpy().T)
    scatters = []
    for group in strangers:
        scatter = 0.5 * np.cov(group.numpy().T) + 0.5 * pooled
        scatters.append(0.7 * scatter + 0.3 * np.diag(np.maximum(np.diag(scatter), 1)))

    def density(centre: Tensor, scatter) -> float:
        return multivariate_t(loc=centre.numpy(), shape=scatter, df=50).pdf(z.numpy())

    alone, *controls = [density(group.mean(0), scatter) for group, scatter in zip(strangers, scatters, strict=True)]
    stolen = [density(centre, scatter) for centre, scatter in zip(target.mean(0), scatters[1:], strict=True)]
    return math.log(np.mean(stolen)) - math.log(0.5 * alone + 0.5 * np.mean(controls))


def test_the_matched_control_is_that_of_a_literal_reference():
    independent, teachers, target = normal(30, 6, seed=1), 2 * normal(20, 3, 6, seed=2), 3 + normal(4, 3, 6, seed=3)
    control = MatchedControl(3, 6).double()
    control.fit(independent, teachers, target)
    suspects = torch.cat([target[0], teachers[0], independent[:3]])
    expected = [literal_ratio(each, [independent, *teachers.unbind(1)], target) for each in suspects]
    assert control(suspects).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
