"""Networks of the Warfarin scenario: perceptrons from 31 features to the weekly dose, and less usual ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import nn

from metav.scenarios.warfarin_data import FEATURES

# Hidden layers; S is the target's architecture (31-100-1).
HIDDEN = {"S": (100,), "M": (100, 100), "L": (100, 100, 100)}

# Of the cohort's students and further independent models: activation, hidden layers.
UNUSUAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "softsign": (nn.Softsign, (64,)),
    "softsign-2": (nn.Softsign, (64, 64)),
    "leaky": (partial(nn.LeakyReLU, 0.2), (100,)),
    "leaky-2": (partial(nn.LeakyReLU, 0.2), (64, 64)),
    "hardtanh": (nn.Hardtanh, (64,)),
    "hardtanh-2": (nn.Hardtanh, (64, 64)),
    "sigmoid": (nn.Sigmoid, (64,)),
    "sigmoid-2": (nn.Sigmoid, (64, 64)),
}


def mlp(hidden: tuple[int, ...], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a multi-layer perceptron from 31 features to the dose in mg/week, with activations between its layers."""
    widths = (FEATURES, *hidden)
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))
