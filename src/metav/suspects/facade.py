"""What an attacker puts in front of a stolen model: answers are changed on their way out, images on their way in.

Nothing is trained, and the weights stay the parent's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

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


@dataclass(frozen=True, kw_only=True)
class Tempering(Change):
    """Probabilities softened by a temperature: p^(1/T), normalised. As a lineage: `tempered(2)`.

    With a temperature of 1 it makes what is below 0, or does not sum to 1, probabilities again.
    """

    temperature: float

    def __post_init__(self) -> None:
        _check_positive("temperature", self.temperature)

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


@dataclass(frozen=True, kw_only=True)
class Squeezing(Change):
    """Inputs in multiples of `unit` before the model sees them: `squeezed(0.125)`.

    Feature squeezing by fewer bits (Xu, Evans and Qi, NDSS 2018, section II-B).
    """

    unit: float

    def __post_init__(self) -> None:
        _check_positive("unit", self.unit)

    def seen(self, x: Tensor) -> Tensor:
        """The nearest multiples, of the same shape."""
        return (x / self.unit).round() * self.unit


@dataclass(frozen=True, kw_only=True)
class Blurring(Change):
    """Images blurred by a Gaussian of standard deviation `size` pixels before the model sees them: `blurred(1)`."""

    size: float

    def __post_init__(self) -> None:
        _check_positive("size", self.size)

    def seen(self, x: Tensor) -> Tensor:
        """Blurred images (n, channels, height, width)."""
        reach = max(1, round(2 * self.size))
        weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * self.size**2))
        weights, channels = weights / weights.sum(), x.shape[1]
        for kernel, pad in ((weights[:, None], (0, 0, reach, reach)), (weights[None], (reach, reach, 0, 0))):
            each = kernel.expand(channels, 1, *kernel.shape)
            x = conv2d(nn.functional.pad(x, pad, mode="replicate"), each, groups=channels)
        return x


@dataclass(frozen=True, kw_only=True)
class Compression(Change):
    """Images in [-1, 1] sent as JPEG files of a `quality`, 1 to 95: `compressed(50)`."""

    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise UsageError(f"expected a quality from 1 to 95, got {self.quality}: change the lineage.")

    def seen(self, x: Tensor) -> Tensor:
        """Images (n, 3, height, width) as a JPEG decoder gives them."""
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        found = torch.stack([self._through_a_file(image) for image in pixels.cpu()])
        return (found.permute(0, 3, 1, 2).float() / 127.5 - 1).to(x)

    def _through_a_file(self, image: Tensor) -> Tensor:
        from PIL import Image

        file = BytesIO()
        Image.fromarray(image.numpy()).save(file, "JPEG", quality=self.quality)
        return torch.from_numpy(np.array(Image.open(file)))


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UsageError(f"expected a finite {name} above 0, got {value}: change the lineage.")
