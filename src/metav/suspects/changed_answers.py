"""Answers that are changed on their way out of a stolen model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metav.errors import UsageError
from metav.suspects.facade import Change, check_positive


@dataclass(frozen=True, kw_only=True)
class Rounding(Change):
    """Answers in multiples of `unit`, as APIs round them. As a lineage: `rounded(5)`."""

    unit: float

    def __post_init__(self) -> None:
        check_positive("unit", self.unit)

    def changed(self, answers: Tensor) -> Tensor:
        """The nearest multiples."""
        return (answers / self.unit).round() * self.unit


@dataclass(frozen=True, kw_only=True)
class AnswerNoise(Change):
    """Answers with normal noise of standard deviation `size`: `noisy(2,seed=1)`.

    The same noise for the same number of inputs; for another number it differs.
    """

    size: float
    seed: int

    def __post_init__(self) -> None:
        check_positive("size", self.size)

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
        check_positive("scale", self.scale)

    def changed(self, answers: Tensor) -> Tensor:
        """The rescaled answers."""
        return self.scale * answers + self.shift


@dataclass(frozen=True, kw_only=True)
class Tempering(Change):
    """Probabilities softened by a temperature: p^(1/T), normalised. As a lineage: `tempered(2)`.

    With a temperature of 1 it makes what is below 0, or does not sum to 1, probabilities again.
    """

    temperature: float

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def changed(self, answers: Tensor) -> Tensor:
        """The softened probabilities (n, classes)."""
        powers = answers.clamp_min(torch.finfo(answers.dtype).tiny) ** (1 / self.temperature)
        return powers / powers.sum(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Top(Change):
    """The `k` largest probabilities alone, 0 for all others; without `values` only which they are: 1/k each.

    As a lineage: `top(3)`, and for the label alone `top(1,values=0)`.
    """

    k: int
    values: int = 1

    def __post_init__(self) -> None:
        if self.k < 1 or self.values not in (0, 1):
            raise UsageError(
                f"expected k of at least 1 and values 0 or 1, got {self.k} and {self.values}: change the lineage."
            )

    def changed(self, answers: Tensor) -> Tensor:
        """What is let out of probabilities (n, classes)."""
        largest = answers.topk(min(self.k, answers.shape[-1]), dim=-1)
        given = largest.values if self.values else torch.full_like(largest.values, 1 / largest.values.shape[-1])
        return torch.zeros_like(answers).scatter(-1, largest.indices, given)
