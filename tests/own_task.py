"""A small task of one's own, and its parts: what the tests of own tasks are made from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from metav import Part, Spec, Task

EXAMPLES = Path(__file__).parent.parent / "examples"
SPEC = Spec(input_shape=(3,), output_shape=(2,), low=-1.0, high=1.0, output="probabilities")


def part(rows: int = 40, seed: int = 0, *, doses: bool = False) -> Part:
    x = 2 * torch.rand(rows, 3, generator=torch.Generator().manual_seed(seed)) - 1
    return Part(x=x, y=x[:, :2].contiguous() if doses else (x[:, 0] > 0).long())


def codes(count: int = 60, seed: int = 0) -> Part:
    """Codes of a generator, and images that have nothing to do with them: bright squares on a dark ground."""
    x = part(count, seed).x
    y, places = (
        torch.zeros(count, 1, 12, 12),
        torch.randint(6, (count, 2), generator=torch.Generator().manual_seed(seed)),
    )
    for image, (row, column) in zip(y, places.tolist(), strict=True):
        image[:, row : row + 6, column : column + 6] = 1
    return Part(x=x, y=y)


def painter(hidden: int = 32) -> nn.Module:
    layers = (nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 144), nn.Sigmoid(), nn.Unflatten(1, (1, 12, 12)))
    return nn.Sequential(*layers)


class Fixed(nn.Module):
    """A layer that cannot be drawn anew, without reset_parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        return x @ self.weight.T


def network(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def task(**changes) -> Task:
    torch.manual_seed(0)
    parts = {"own": part(), "public": part(seed=1), "test": part(seed=2)}
    return Task(**{"name": "mine", "target": network(), "spec": SPEC, "epochs": 2, **parts, **changes})
