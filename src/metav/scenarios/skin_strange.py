"""Networks of Skin's open world: kinds that neither zoo nor cohort has, on 28 x 28 pixels without resizing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from metav.scenarios.skin_data import CLASSES
from metav.scenarios.skin_nets import Classifier

SIDE = 28
PATCH = 7
WIDTH = 96  # of a token


class Patches(nn.Module):
    """Images (n, 3, 28, 28) as 16 tokens (n, 16, 96), with learnt places."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.place = nn.Parameter(0.02 * torch.randn((SIDE // PATCH) ** 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens."""
        tokens: Tensor = self.cut(x).flatten(2).mT + self.place
        return tokens


class MixerBlock(nn.Module):
    """Two perceptrons, across tokens and across channels (Tolstikhin et al., NeurIPS 2021)."""

    def __init__(self) -> None:
        super().__init__()
        tokens = (SIDE // PATCH) ** 2
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.along = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Mixed tokens (n, tokens, width)."""
        x = x + self.across(self.first(x).mT).mT
        mixed: Tensor = x + self.along(self.second(x))
        return mixed


class MeanToken(nn.Module):
    """Mean over tokens, then logits."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


class GroupBlock(nn.Module):
    """A residual block with group norm (Wu and He, ECCV 2018) in the place of batch norm."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(narrow, wide, 3, stride, 1),
            nn.GroupNorm(8, wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, 1, 1),
            nn.GroupNorm(8, wide),
        )
        self.skip = nn.Conv2d(narrow, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Images of features."""
        return nn.functional.silu(self.body(x) + self.skip(x))


def mixer() -> nn.Module:
    """An MLP-Mixer of four blocks."""
    return nn.Sequential(Patches(), *(MixerBlock() for _ in range(4)), MeanToken())


def transformer() -> nn.Module:
    """A small vision transformer (Dosovitskiy et al., ICLR 2021) without a class token."""
    blocks = (
        nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        for _ in range(3)
    )
    return nn.Sequential(Patches(), *blocks, MeanToken())


def grouped() -> nn.Module:
    """A residual network with group norm."""
    blocks = (GroupBlock(narrow, wide, 2) for narrow, wide in ((32, 64), (64, 128)))
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1), nn.GroupNorm(8, 32), nn.SiLU(), nn.MaxPool2d(2), *blocks, *_head(128)
    )


def plain(activation: Callable[[], nn.Module] = nn.ELU) -> nn.Module:
    """Three convolutions without any norm."""
    layers: list[nn.Module] = []
    for narrow, wide in ((3, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1), activation()]
    return nn.Sequential(*layers, *_head(96))


def separable() -> nn.Module:
    """Depthwise separable convolutions (Howard et al., MobileNets, 2017)."""
    layers = _step(3, 32, 3, 2)
    for narrow, wide, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 192, 2)):
        layers += [*_step(narrow, narrow, 3, stride, groups=narrow), *_step(narrow, wide, 1)]
    return nn.Sequential(*layers, *_head(192))


def _step(narrow: int, wide: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(narrow, wide, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(wide), nn.Hardswish()]


def perceptron() -> nn.Module:
    """A perceptron on pixels."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIDE**2, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, len(CLASSES))
    )


def _head(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(CLASSES))


def _classifier(make: Callable[[], nn.Module]) -> Classifier:
    return Classifier(make(), SIDE)


STRANGE: dict[str, Callable[[], nn.Module]] = {
    name: partial(_classifier, make)
    for name, make in {
        "mixer": mixer,
        "transformer": transformer,
        "grouped": grouped,
        "plain": plain,
        "separable": separable,
        "perceptron": perceptron,
    }.items()
}
