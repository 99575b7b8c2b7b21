"""Inputs that are changed on their way into a stolen model."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from metav.errors import UsageError
from metav.suspects.facade import Change, check_positive


@dataclass(frozen=True, kw_only=True)
class Squeezing(Change):
    """Inputs in multiples of `unit` before the model sees them: `squeezed(0.125)`.

    Feature squeezing by fewer bits (Xu, Evans and Qi, NDSS 2018, section II-B).
    """

    unit: float

    def __post_init__(self) -> None:
        check_positive("unit", self.unit)

    def seen(self, x: Tensor) -> Tensor:
        """The nearest multiples, of the same shape."""
        return (x / self.unit).round() * self.unit


@dataclass(frozen=True, kw_only=True)
class Blurring(Change):
    """Images blurred by a Gaussian of standard deviation `size` pixels before the model sees them: `blurred(1)`."""

    size: float

    def __post_init__(self) -> None:
        check_positive("size", self.size)

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
