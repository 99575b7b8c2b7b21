"""Small changes of the weights that cost an attacker nothing: fewer bits, noise. Nothing is trained."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from metav.errors import UsageError
from metav.suspects.base import Draft, Fresh, answering


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Round each parameter tensor to 2^`bits` - 1 evenly spaced values around 0, up to its largest magnitude.

    Symmetric, one scale a tensor, as post-training quantisation of weights does. As a lineage: `quantise(8)`.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise UsageError(f"expected 2 to 16 bits, got {self.bits}: change the lineage.")

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a rounded copy of `parent`."""
        model = deepcopy(parent)
        steps = 2 ** (self.bits - 1) - 1
        with torch.no_grad():
            for parameter in answering(model)[1].parameters():
                scale = parameter.abs().max().clamp_min(torch.finfo(parameter.dtype).tiny) / steps
                parameter.copy_((parameter / scale).round() * scale)
        return Draft(model=model)


@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    """Add normal noise to each parameter tensor, of `ratio` times the standard deviation of its values.

    As a lineage: `jitter(0.1,seed=1)`.
    """

    ratio: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise UsageError(f"expected noise above 0 and of at most 1, got {self.ratio}: change the lineage.")

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a copy of `parent` with noise."""
        model = deepcopy(parent)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for parameter in answering(model)[1].parameters():
                spread = parameter.std(correction=0)
                parameter.add_(self.ratio * spread * torch.randn(parameter.shape, generator=generator))
        return Draft(model=model)
