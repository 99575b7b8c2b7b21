"""What an attacker puts in front of a stolen model: answers are changed on their way out, images on their way in.

Nothing is trained, and the weights stay the parent's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metav.errors import UsageError
from metav.suspects.base import Draft, Fresh


class Facade(nn.Module):
    """A model whose inputs are changed before it sees them, or its answers before they are given."""

    def __init__(self, model: nn.Module, step: Change) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, x: Tensor) -> Tensor:
        """The changed answers (n, *output_shape)."""
        return self.step.changed(torch.as_tensor(self.model(self.step.seen(x))))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of inputs or answers; as a suspect, the parent behind it."""

    def seen(self, x: Tensor) -> Tensor:
        """What the model sees of the inputs, of the same shape."""
        return x

    def changed(self, answers: Tensor) -> Tensor:
        """The changed answers, of the same shape."""
        return answers

    def wrap(self, model: nn.Module) -> Facade:
        """Put the change in front of a model."""
        return Facade(model, self)

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return `parent` behind the change."""
        return Draft(model=self.wrap(parent))


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not finite and above 0."""
    if not 0 < value < math.inf:
        raise UsageError(f"expected a finite {name} above 0, got {value}: change the lineage.")
