"""What schemes that move inputs share: where they start, and Adam for many points that stop at different times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metav.errors import UsageError
from metav.schemes.base import Ensemble, labels
from metav.spec import Spec


def width(spec: Spec) -> Tensor:
    """Width of the box of inputs, () or (features,): published step sizes are for a width of 1."""
    low, high = spec.bounds()
    return high - low


def starts(ensemble: Ensemble, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` different examples, a copy (count, *input_shape).

    Raises
    ------
    UsageError
        There are fewer.
    """
    chosen = torch.randperm(len(ensemble.data), generator=generator)[:count]
    enough(len(chosen), count)
    return ensemble.data[chosen]


def classified(ensemble: Ensemble, count: int, generator: torch.Generator, *, right: bool) -> Tensor:
    """Draw `count` different examples (count, *input_shape) that the target classifies right, or wrong.

    The target is asked about random examples until there are as many; there may be fewer.

    Raises
    ------
    UsageError
        The true classes are not known, or all the same.
    """
    truth = ensemble.classes()
    found: list[Tensor] = []
    for rows in torch.randperm(len(ensemble.data), generator=generator).split(256):
        found.append(rows[(labels(ensemble.target, ensemble.data[rows]) == truth[rows]) == right])
        if sum(map(len, found)) >= count:
            break
    return ensemble.data[torch.cat(found)[:count]]


def enough(found: int, count: int) -> None:
    """Refuse fewer than `count` examples."""
    if found < count:
        raise UsageError(f"expected at least {count} examples to start from, got {found}: ask for fewer queries.")


class Rows:
    """Adam (Kingma and Ba, ICLR 2015) on the rows of `x`, each with its own count of steps; `x` (n, ...) is changed."""

    def __init__(self, x: Tensor, lr: float | Tensor) -> None:
        self.x, self.lr = x.clone(), lr
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)
        self.steps = torch.zeros(len(x))

    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move the `rows` (m,) one step down their `gradient` (m, ...); the others stand still."""
        b1, b2 = 0.9, 0.999
        self.steps[rows] += 1
        steps = self.steps[rows].view(-1, *[1] * (self.x.dim() - 1))
        mean = self.mean[rows].lerp(gradient, 1 - b1)
        square = self.square[rows].lerp(gradient.square(), 1 - b2)
        self.mean[rows], self.square[rows] = mean, square
        self.x[rows] -= self.lr * (mean / (1 - b1**steps)) / ((square / (1 - b2**steps)).sqrt() + 1e-8)


def cutmix(images: Tensor, generator: torch.Generator) -> Tensor:
    """Put a rectangle of another image into each of `images` (n, channels, height, width).

    Yun et al., ICCV 2019, section 3.1: the area that stays is uniform in [0, 1], and so is the rectangle's centre; what
    of it is outside of the image is cut off.
    """
    n, _, height, breadth = images.shape
    partner = images[torch.randperm(n, generator=generator)]
    mixed = images.clone()
    draws = torch.rand(n, 3, generator=generator).tolist()
    for index, (area, cy, cx) in enumerate(draws):
        h, w = (round(side * math.sqrt(1 - area)) for side in (height, breadth))
        top, left = round(cy * height - h / 2), round(cx * breadth - w / 2)
        patch = (slice(max(0, top), top + h), slice(max(0, left), left + w))
        mixed[index, :, *patch] = partner[index, :, *patch]
    return mixed
