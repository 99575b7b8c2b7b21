"""What an attacker puts in front of a stolen model: its answers are changed on their way out.

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
    """A model whose answers are changed before they are given."""

    def __init__(self, model: nn.Module, step: Change) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, x: Tensor) -> Tensor:
        """The changed answers (n, *output_shape)."""
        return self.step.changed(torch.as_tensor(self.model(x)))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of answers; as a suspect, the parent behind it."""

    def changed(self, answers: Tensor) -> Tensor:
        """The changed answers, of the same shape."""
        raise NotImplementedError

    def wrap(self, model: nn.Module) -> Facade:
        """Put the change in front of a model."""
        return Facade(model, self)

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return `parent` behind the change."""
        return Draft(model=self.wrap(parent))


@dataclass(frozen=True, kw_only=True)
class Rounding(Change):
    """Answers in multiples of `unit`, as APIs round them. As a lineage: `rounded(5)`."""

    unit: float

    def __post_init__(self) -> None:
        _check_positive("unit", self.unit)

    def changed(self, answers: Tensor) -> Tensor:
        """The nearest multiples."""
        return (answers / self.unit).round() * self.unit


@dataclass(frozen=True, kw_only=True)
class AnswerNoise(Change):
    """Answers with normal noise of standard deviation `size`, the same in each call: `noisy(2,seed=1)`."""

    size: float
    seed: int

    def __post_init__(self) -> None:
        _check_positive("size", self.size)

    def changed(self, answers: Tensor) -> Tensor:
        """The answers with noise."""
        generator = torch.Generator().manual_seed(self.seed)
        return answers + self.size * torch.randn(answers.shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Clipping(Change):
    """Answers clipped to [`low`, `high`]. As a lineage: `clipped(low=10,high=70)`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"expected low below high, got {self.low} and {self.high}: change the lineage.")

    def changed(self, answers: Tensor) -> Tensor:
        """The clipped answers."""
        return answers.clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Rescaling(Change):
    """Answers times `scale` plus `shift`. As a lineage: `rescaled(scale=1.1,shift=2)`."""

    scale: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)

    def changed(self, answers: Tensor) -> Tensor:
        """The rescaled answers."""
        return self.scale * answers + self.shift


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UsageError(f"expected a finite {name} above 0, got {value}: change the lineage.")
