"""Many models at once answer as each does alone."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import tiny
from metav.engine import seeded
from metav.stacks import ACTIVATIONS, stackable, together


def perceptron(seed: int, activation: type[nn.Module], widths=(5, 7, 6, 2)) -> nn.Module:
    with seeded(seed):
        layers = [layer for narrow, wide in pairwise(widths) for layer in (nn.Linear(narrow, wide), activation())]
        return tiny.frozen(nn.Sequential(*layers[:-1]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_perceptrons_side_by_side(activation):
    models, x = [perceptron(seed, activation) for seed in range(4)], torch.randn(9, 5)
    assert stackable(models[0])
    found = together(models)(x)
    assert found.shape == (4, 9, 2)
    assert torch.allclose(found, torch.stack([model(x) for model in models]), atol=1e-6)


def test_models_of_other_kinds_one_after_the_other():
    x = torch.rand(3, 3, 8, 8)
    images = [tiny.frozen(tiny.of_images(seed)) for seed in range(3)]
    assert not stackable(images[0])
    assert torch.equal(together(images)(x), torch.stack([model(x) for model in images]))
    mixed = [perceptron(0, nn.ReLU), perceptron(1, nn.ReLU, (5, 4, 2)), perceptron(2, nn.SiLU)]
    x = torch.randn(4, 5)
    assert torch.equal(together(mixed)(x), torch.stack([model(x) for model in mixed]))


def test_inputs_may_have_further_axes():
    models, x = [perceptron(seed, nn.ReLU) for seed in range(3)], torch.randn(9, 4, 5)
    assert torch.allclose(together(models)(x), torch.stack([model(x) for model in models]), atol=1e-6)


def test_gradients_reach_the_inputs():
    x = torch.randn(9, 5, requires_grad=True)
    models = [perceptron(seed, nn.ReLU) for seed in range(3)]
    (found,) = torch.autograd.grad(together(models)(x).square().sum(), x)
    (expected,) = torch.autograd.grad(sum(model(x).square().sum() for model in models), x)
    assert torch.allclose(found, expected, atol=1e-5)


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Bent(nn.Linear):
    def forward(self, x):
        return super().forward(x).square()


def shared(seed: int) -> nn.Module:
    with seeded(seed):
        bend = nn.ReLU()
        return nn.Sequential(nn.Linear(5, 7), bend, nn.Linear(7, 6), bend, nn.Linear(6, 2))


def other(seed: int, kind: type[nn.Module], last: type[nn.Linear], norm=lambda layer: layer) -> nn.Module:
    with seeded(seed):
        return kind(nn.Linear(5, 7), nn.ReLU(), norm(last(7, 2)))


def tied(seed: int) -> nn.Module:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    return model


def counted(seed: int) -> nn.Module:
    model = perceptron(seed, nn.ReLU)
    model.register_buffer("version", torch.ones(1))
    return model


def hooked(seed: int) -> nn.Module:
    model = perceptron(seed, nn.ReLU)
    model[0].register_forward_pre_hook(lambda _, given: (5 * given[0],))
    return model


@pytest.mark.parametrize(
    "make",
    [
        shared,
        tied,
        counted,
        hooked,
        partial(other, kind=Doubled, last=nn.Linear),
        partial(other, kind=nn.Sequential, last=Bent),
        partial(other, kind=nn.Sequential, last=nn.Linear, norm=weight_norm),
        partial(other, kind=nn.Sequential, last=nn.Linear, norm=torch.nn.utils.weight_norm),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_only_looks_like_a_perceptron_answers_for_itself(make):
    models, x = [tiny.frozen(make(seed)) for seed in range(3)], torch.randn(4, 5)
    assert torch.equal(together(models)(x), torch.stack([model(x) for model in models]))
