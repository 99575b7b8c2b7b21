"""Models made cheap to ask answer as they did, and are left as they were."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import tiny
from metav import scenarios, schemes
from metav.engine import seeded
from metav.errors import UsageError
from metav.frozen import Halved, folded, halved
from metav.scenarios import fashion_nets, skin_nets

IMAGES = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
MAKERS = {
    "S": (partial(skin_nets.squeezenet, 64), IMAGES, 0),
    "M": (partial(skin_nets.resnet, 32), IMAGES, 0),
    "L": (partial(skin_nets.densenet, 32, (1, 1, 1, 1)), IMAGES, 8),  # of norms before convolutions
    "XL": (partial(skin_nets.alexnet, 64), IMAGES, 0),
    "XXL": (partial(skin_nets.vgg, 32), IMAGES, 0),
    "generator": (lambda: fashion_nets.dcgan().generator, torch.randn(4, 100), 0),
}


def worn(make) -> nn.Module:
    """A model whose batch norms have seen something: none is the identity."""
    with seeded(3):
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return tiny.frozen(model)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", MAKERS)
def test_a_folded_model_gives_the_same_answers_and_gradients(name):
    make, x, left = MAKERS[name]
    model = worn(make)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = folded(model, x)
    assert norms(made) == left < norms(model)
    x = x.clone().requires_grad_(True)
    answers = [each(x) for each in (model, made)]
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)
    slopes = [torch.autograd.grad(each.square().sum(), x)[0] for each in answers]
    assert (slopes[0] - slopes[1]).norm() < 0.02 * slopes[0].norm()  # rounding decides where two pixels tie in a pool
    after = model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert all(value.stride() == before[key].stride() for key, value in after.items())


def test_all_models_of_a_zoo_can_be_followed():
    for scenario in (scenarios.load("skin", "smoke"), scenarios.load("fashion", "smoke")):
        for name in scenario.architectures:
            model = scenario.fresh(name, 0).eval()
            if norms(getattr(model, "generator", model)):
                assert norms(folded(model, scenario.parts["public"].x[:2])) < norms(model), name


def test_a_relu_before_a_pool_goes_behind_it_unless_others_see_it_too():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    model = tiny.frozen(nn.Sequential(*layers))
    made = folded(model, IMAGES)
    assert [type(each).__name__ for each in made] == ["Conv2d", "Identity", "MaxPool2d", "ReLU"]
    assert [type(each).__name__ for each in model] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.relu, self.pool = nn.Sequential(*layers[:2]), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x):
            y = self.relu(self.before(x))
            return self.pool(y).mean() + y.mean()

    seen = tiny.frozen(Seen())
    assert norms(folded(seen, IMAGES)) == 0  # it was folded, and the ReLU stayed where it was
    assert isinstance(folded(seen, IMAGES).relu, nn.ReLU)
    torch.testing.assert_close(folded(seen, IMAGES)(IMAGES), seen(IMAGES))


class Shared(nn.Module):
    """A batch norm whose input others see, and a convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.twice = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        y = self.seen(x)
        y = y + self.norms[0](y)
        return self.norms[2](self.twice(self.norms[1](self.twice(y))))


class Undecided(nn.Module):
    """What it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))

    def forward(self, x):
        return self.net(x) if x.mean() > 0 else self.net(-x)


class Named(nn.Module):
    """A convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3)
        self.net = nn.Sequential(self.stem, nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class Bent(nn.Conv2d):
    """A convolution that does more than its name says."""

    def forward(self, x):
        return super().forward(x).relu()


class Reused(nn.Module):
    """A weight that is used a second time, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        return nn.functional.conv_transpose2d(self.norm(input=self.layer(x)), self.layer.weight)


def bent():
    return nn.Sequential(Bent(3, 3, 3), nn.BatchNorm2d(3))


def grouped():
    return nn.Sequential(nn.ConvTranspose2d(3, 3, 3, groups=3), nn.BatchNorm2d(3))


def parametrised():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3))


def stateless():
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize("kind", [Shared, Undecided, Named, bent, Reused, grouped, parametrised, stateless])
def test_a_norm_that_cannot_be_folded_stays(kind):
    model = worn(kind)
    made = folded(model, IMAGES)
    assert norms(made) == norms(model)
    torch.testing.assert_close(made(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", MAKERS)
def test_a_halved_model_answers_nearly_the_same_in_float32_and_leaves_the_model_alone(name):
    make, x, _ = MAKERS[name]
    model = worn(make)
    made = Halved(folded(model, x))
    answers, expected = made(x), model(x)
    assert answers.dtype == torch.float32
    assert 0 < (answers - expected).abs().max() < 0.03
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in made.parameters()}


def test_a_lone_layer_can_be_halved_and_what_is_no_module_stays():
    layer = tiny.frozen(nn.Linear(3, 2))
    assert Halved(layer).model.weight.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert halved(torch.sin) is torch.sin


def test_a_model_that_bfloat16_is_not_for():
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = torch.zeros(len(x), 3)
            y[[0, 1]] = self.layer(x)[:2]
            return y

    with pytest.raises(UsageError, match="expected models that can be asked in bfloat16, got one that cannot"):
        Halved(tiny.frozen(Written()))(torch.rand(4, 3))


def test_a_fingerprint_learnt_in_bfloat16_tells_float32_models_apart():
    ensemble = tiny.classifiers()
    made = schemes.get("metav(iterations=400,lr=0.01,half=1)").construct(ensemble, queries=10, seed=0)
    rates = [[made.score(model(made.queries)) for model in side] for side in (ensemble.positives, ensemble.negatives)]
    assert min(rates[0]) > 0.5 > max(rates[1])
