"""Networks of the Warfarin scenario: perceptrons from 31 features to the weekly dose in mg, and less usual ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from metav.scenarios.warfarin_data import FEATURES

Activation = Callable[[], nn.Module]

# Hidden layers; S is the target's architecture (31-100-1).
HIDDEN = {"S": (100,), "M": (100, 100), "L": (100, 100, 100)}

# Of the cohort's students and further independent models: activation, hidden layers.
UNUSUAL: dict[str, tuple[Activation, tuple[int, ...]]] = {
    "softsign": (nn.Softsign, (64,)),
    "softsign-2": (nn.Softsign, (64, 64)),
    "leaky": (partial(nn.LeakyReLU, 0.2), (100,)),
    "leaky-2": (partial(nn.LeakyReLU, 0.2), (64, 64)),
    "hardtanh": (nn.Hardtanh, (64,)),
    "hardtanh-2": (nn.Hardtanh, (64, 64)),
    "sigmoid": (nn.Sigmoid, (64,)),
    "sigmoid-2": (nn.Sigmoid, (64, 64)),
}


def mlp(hidden: tuple[int, ...], activation: Activation = nn.ReLU) -> nn.Sequential:
    """Return a multi-layer perceptron with activations between its layers."""
    widths = (FEATURES, *hidden)
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


class Sine(nn.Module):
    """sin(x), as in networks for waves and pictures (Sitzmann et al., NeurIPS 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """The sine of each value."""
        return x.sin()


class Maxout(nn.Module):
    """Linear layer of which each unit is the largest of three pieces (Goodfellow et al., ICML 2013)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 3 * units)

    def forward(self, x: Tensor) -> Tensor:
        """Values (n, units)."""
        found: Tensor = self.linear(x).unflatten(-1, (-1, 3)).amax(-1)
        return found


class Residual(nn.Module):
    """A perceptron of 64 units a layer with a shortcut around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 64)
        self.block = nn.Sequential(nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.last = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Doses (n, 1)."""
        h = self.first(x)
        found: Tensor = self.last((h + self.block(h)).relu())
        return found


class RadialBasis(nn.Module):
    """Gaussian bumps around 80 learnt centres, mixed linearly (Broomhead and Lowe, 1988)."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(2 * torch.rand(80, FEATURES) - 1)
        self.gamma = nn.Parameter(torch.tensor(0.08))
        self.last = nn.Linear(80, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Doses (n, 1)."""
        found: Tensor = self.last(torch.exp(-self.gamma * torch.cdist(x, self.centres).square()))
        return 10 * found + 30


def _maxout(*widths: int) -> nn.Sequential:
    layers = [Maxout(narrow, wide) for narrow, wide in pairwise((FEATURES, *widths))]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def _dropout() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 200), nn.ReLU(), nn.Dropout(0.3), nn.Linear(200, 1))


# Kinds that neither zoo nor cohort has: for the open world alone.
STRANGE: dict[str, Callable[[], nn.Module]] = {
    "silu-128": partial(mlp, (128,), nn.SiLU),
    "silu-256": partial(mlp, (256,), nn.SiLU),
    "silu-64-64": partial(mlp, (64, 64), nn.SiLU),
    "elu-50": partial(mlp, (50,), nn.ELU),
    "elu-64-64": partial(mlp, (64, 64), nn.ELU),
    "elu-128-128": partial(mlp, (128, 128), nn.ELU),
    "softplus-64": partial(mlp, (64,), nn.Softplus),
    "softplus-64-64": partial(mlp, (64, 64), nn.Softplus),
    "selu-48-48-48": partial(mlp, (48, 48, 48), nn.SELU),
    "sine-64": partial(mlp, (64,), Sine),
    "sine-64-64": partial(mlp, (64, 64), Sine),
    "relu-20": partial(mlp, (20,)),
    "relu-500": partial(mlp, (500,)),
    "relu-200-dropout": _dropout,
    "residual": Residual,
    "radial": RadialBasis,
    "maxout-40": partial(_maxout, 40),
    "maxout-40-40": partial(_maxout, 40, 40),
}
