"""Tiny models of three kinds, each kind as an ensemble: what schemes are tested on. They are shared: read only."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metav.engine import seeded
from metav.fingerprint import Fingerprint
from metav.optim import Adam
from metav.schemes import Ensemble
from metav.schemes.base import CohortModels
from metav.scorers.control import Tail, rarity
from metav.spec import Spec
from metav.stacks import together

IMAGES = Spec(input_shape=(3, 8, 8), output_shape=(4,), low=-1.0, high=1.0, output="probabilities")
TABLES = Spec(input_shape=(6,), output_shape=(3,), low=-2.0, high=3.0, output="probabilities")
REGRESSION = Spec(input_shape=(6,), output_shape=(2,), low=-2.0, high=3.0, output="regression")
CODES = Spec(input_shape=(5,), output_shape=(1, 8, 8), low=-2.0, high=2.0, output="images")


class Classifier(nn.Module):
    """A network of logits; answers with probabilities."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).softmax(-1)


class Linear(Classifier):
    """Logits x @ weight + bias, of chosen numbers."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, torch.zeros(weight.shape[1]) if bias is None else bias

    def logits(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + self.bias


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def rare(values: Tensor, law: Tail) -> Tensor:
    """p-values of some values."""
    count, known = torch.tensor(law.count), torch.tensor(law.known)
    return torch.exp(-rarity(values, law.begin, law.scale, count, known))


def of_images(seed: int, classes: int = 4) -> Classifier:
    with seeded(seed):
        return Classifier(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, classes))


def of_tables(seed: int) -> Classifier:
    with seeded(seed):
        return Classifier(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def regressor(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def generator(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))
        )


def referred(made: Fingerprint, target: nn.Module) -> Fingerprint:
    """A fingerprint that holds its target's answers, as those that `metav fingerprint` writes."""
    with torch.no_grad():
        return replace(made, reference=target(made.queries))


def near(model: nn.Module, fresh: nn.Module, seed: int) -> nn.Module:
    """`fresh` with the weights of `model`, each changed a little: a stolen model."""
    fresh.load_state_dict(model.state_dict())
    noise = torch.Generator().manual_seed(seed)
    for weight in fresh.parameters():
        weight.data += 0.05 * weight.std() * torch.randn(weight.shape, generator=noise)
    return frozen(fresh)


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def train(model: Classifier, x: Tensor, y: Tensor, steps: int = 30) -> nn.Module:
    optimiser = Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimiser.step(torch.autograd.grad(cross_entropy(model.logits(x), y), optimiser.parameters))
    return frozen(model)


def examples(spec: Spec, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Noisy copies of one pattern a class, so noisy that a model gets some wrong."""
    noise = torch.Generator().manual_seed(7)
    patterns = torch.rand(classes, *spec.input_shape, generator=noise)
    y = torch.randint(classes, (count,), generator=noise)
    unit = 0.25 * patterns[y] + 0.75 * torch.rand(count, *spec.input_shape, generator=noise)
    return spec.low + (spec.high - spec.low) * unit, y


def cohort(target: nn.Module, teacher, fresh, teachers: int = 48, copies: int = 4) -> CohortModels:
    """Models `teacher(seed)` and copies of the target, as they are and each stolen with some noise."""
    models = [*(teacher(100 + index) for index in range(teachers)), *[target] * copies]
    stolen = [near(model, fresh(0), 300 + index) for index, model in enumerate(models)]
    return CohortModels(teachers=teachers, kinds={"as it is": together(models), "noise": together(stolen)})


@cache
def classifiers(classes: int = 4) -> Ensemble:
    spec = replace(IMAGES, output_shape=(classes,))
    x, y = examples(spec, 240, classes)
    models = [train(of_images(seed, classes), x[10 * seed :][:80], y[10 * seed :][:80]) for seed in range(6)]

    def teacher(seed: int) -> nn.Module:
        return train(of_images(seed, classes), x[:80], y[:80])

    return Ensemble(
        cohort=cohort(models[0], teacher, lambda seed: of_images(seed, classes)),
        target=models[0],
        positives=[near(models[0], of_images(0, classes), seed) for seed in range(4)],
        negatives=models[1:],
        spec=spec,
        data=x[120:],
        labels=y[120:],
    )


@cache
def tables() -> Ensemble:
    """Classifiers of six features."""
    x, y = examples(TABLES, 200, 3)
    models = [train(of_tables(seed), x[:100], y[:100]) for seed in range(6)]
    return Ensemble(
        cohort=cohort(models[0], lambda seed: train(of_tables(seed), x[:100], y[:100]), of_tables),
        target=models[0],
        positives=[near(models[0], of_tables(0), seed) for seed in range(4)],
        negatives=models[1:],
        spec=TABLES,
        data=x[100:],
        labels=y[100:],
    )


@cache
def regressors() -> Ensemble:
    return _untrained(regressor, REGRESSION)


@cache
def generators() -> Ensemble:
    return _untrained(generator, CODES)


def _untrained(fresh, spec: Spec) -> Ensemble:
    target = frozen(fresh(0))
    unit = torch.rand(60, *spec.input_shape, generator=torch.Generator().manual_seed(3))
    return Ensemble(
        cohort=cohort(target, lambda seed: frozen(fresh(seed)), fresh),
        target=target,
        positives=[near(target, fresh(0), seed) for seed in range(4)],
        negatives=[frozen(fresh(seed)) for seed in range(1, 6)],
        spec=spec,
        data=spec.low + (spec.high - spec.low) * unit,
    )
