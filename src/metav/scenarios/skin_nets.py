"""Networks of the Skin scenario: torchvision's classifiers behind a resize, so that all take 28 x 28 pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import interpolate

from metav.errors import missing_extra
from metav.scenarios.few_pixels import fast
from metav.scenarios.skin_data import CLASSES

# Of DermaMNIST's training images in [-1, 1], by colour. Networks without batch norm learn faster from inputs
# that are centred and scaled.
MEAN, STD = (0.526, 0.076, 0.123), (0.273, 0.309, 0.339)
LARGE = 224  # pixels: the side from which on networks stay as they were published
WIDTH = 512  # of the heads of AlexNet and VGG-16 where they see one pixel: as many as VGG-16 has channels


class Classifier(nn.Module):
    """`net` on images (n, 3, 28, 28) in [-1, 1], standardised and resized to `side` pixels; answers with probabilities.

    Activations are laid out pixel by pixel (channels last), which is faster for most architectures.
    """

    channels_last = True

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = fast(net), side

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        mean, std = (x.new_tensor(each)[:, None, None] for each in (MEAN, STD))
        large = resized((x - mean) / std, self.side)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        found: Tensor = self.net(large.contiguous(memory_format=layout))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (n, classes)."""
        return self.logits(x).softmax(-1)


@fx.wrap
def resized(x: Tensor, side: int) -> Tensor:
    """Square images (n, channels, h, h) at `side` x `side` pixels, bilinear.

    Where their gradient is wanted, by two products of matrices, which is faster (benchmarks/construction_speed.py).
    """
    if not x.requires_grad:
        return interpolate(x, size=(side, side), mode="bilinear")
    length = x.shape[-1]
    one = torch.eye(length, dtype=x.dtype, device=x.device)
    weights = interpolate(one[None, None], size=(side, length), mode="bilinear")[0, 0]
    return weights @ x @ weights.T


def squeezenet(side: int) -> Classifier:
    """SqueezeNet 1.0 (Iandola et al., 2016); needs 32 pixels or more to see anything, 64 to see well."""
    if side >= LARGE:
        return Classifier(_models().squeezenet1_0(num_classes=len(CLASSES)), side)
    net = _models().squeezenet1_0(num_classes=len(CLASSES), dropout=0.0)
    _for_few_epochs(net.features)
    return Classifier(net, side)


def resnet(side: int) -> Classifier:
    """ResNet-18 (He et al., CVPR 2016)."""
    return Classifier(_models().resnet18(num_classes=len(CLASSES)), side)


def densenet(side: int, blocks: tuple[int, int, int, int]) -> Classifier:
    """DenseNet-161 (Huang et al., CVPR 2017) with blocks of 6, 12, 36 and 24 layers; fewer make it shallower."""
    kind = _models().DenseNet
    net = kind(growth_rate=48, block_config=blocks, num_init_features=96, num_classes=len(CLASSES))
    return Classifier(net, side)


def alexnet(side: int) -> Classifier:
    """AlexNet (Krizhevsky, 2014); needs 63 pixels or more."""
    net = _models().alexnet(num_classes=len(CLASSES))
    if side < LARGE:
        _for_few_epochs(_on_one_pixel(net, 256))
    return Classifier(net, side)


def vgg(side: int) -> Classifier:
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) with batch norm."""
    net = _models().vgg16_bn(num_classes=len(CLASSES))
    return Classifier(net if side >= LARGE else _on_one_pixel(net, 512), side)


def small() -> Classifier:
    """Four convolutions with batch norm, on 28 pixels: a student of the cohort, smaller than all others."""
    layers: list[nn.Module] = []
    for narrow, wide, stride in ((3, 32, 1), (32, 64, 2), (64, 96, 2), (96, 128, 2)):
        layers += [nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(CLASSES))), 28)


def _on_one_pixel(net: nn.Module, channels: int) -> nn.Module:
    """Give `net` a head for few pixels, without dropout, which slows learning down.

    At 32 or 64 pixels one pixel is left before the head. The original head would see copies of it, 49 or 36, through
    4,096 units a layer: 9 of 10 weights of the network.
    """
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(
        nn.Linear(channels, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, len(CLASSES))
    )
    return net


def _for_few_epochs(net: nn.Module) -> None:
    """Put batch norm behind each convolution of `net`, in place; without it learning starts slowly."""
    for block in list(net.modules()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Conv2d):
                setattr(block, name, nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels)))


def _models() -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        wanted = "torchvision for the networks of the skin scenario"
        raise missing_extra(wanted, "no module 'torchvision'", "skin") from error
    return models
