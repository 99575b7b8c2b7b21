"""Convolutions on few pixels, or of few channels: the same answers and gradients in a part of the time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, pixel_unshuffle

FEW = 16  # pixels, up to which a kernel of one pixel is faster as a product
COLOURS = 4  # channels, up to which torch's gradient with respect to an image is slow


class Convolution(nn.Conv2d):
    """A convolution (n, in, h, w) -> (n, out, h', w') that multiplies matrices where it meets few pixels.

    Networks made for 224 pixels shrink images of 32 to one pixel before their last layers. All but the centre of a
    kernel of 3 x 3 meets padding there, and the rest is one matrix: a ninth of the work.

    The first convolution of a network meets three channels, which processors do not fill their registers with. Where
    the gradient with respect to the image is wanted, its strides become channels (space to depth).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The answers of `nn.Conv2d`, to rounding."""
        size = x.shape[2:]
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and size.numel() <= FEW:
            return linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
        if x.requires_grad and self._meets_colours(size):
            return self._by_depth(x, self.stride[0])
        rows, columns = (self._met(length, axis) for axis, length in enumerate(size))
        if rows is None or columns is None:
            return super().forward(x)
        image = x[:, :, : rows.stop - rows.start, : columns.stop - columns.start]
        image, seen = (each.permute(0, 2, 3, 1).flatten(1) for each in (image, self.weight[:, :, rows, columns]))
        return linear(image, seen, self.bias)[:, :, None, None]

    def _meets_colours(self, size: Sequence[int]) -> bool:
        """Whether strides can become channels: they are equal, and more than one, and the kernel fits the image."""
        few = self.in_channels <= COLOURS and self.stride[0] == self.stride[1] > 1
        return few and all(
            length + 2 * int(self.padding[axis]) >= self.kernel_size[axis] for axis, length in enumerate(size)
        )

    def _by_depth(self, x: Tensor, stride: int) -> Tensor:
        """Of blocks of `stride` x `stride` pixels, each of which is a pixel of more channels."""
        image: list[int] = []  # pixels to add before and after, the last axis first; the latter may be negative
        kernel: list[int] = []
        for axis in (1, 0):
            length, width, padding = x.shape[2 + axis], self.kernel_size[axis], int(self.padding[axis])
            blocks = -(-width // stride)
            outputs = (length + 2 * padding - width) // stride + 1
            image += [padding, stride * (outputs + blocks - 1) - length - padding]
            kernel += [0, stride * blocks - width]
        pixels, weight = (pixel_unshuffle(pad(*each), stride) for each in ((x, image), (self.weight, kernel)))
        return conv2d(pixels, weight, self.bias)

    def _met(self, length: int, axis: int) -> slice | None:
        """Where the kernel meets `length` pixels along an axis, padding left out; None unless it is at one place."""
        kernel, stride, padding = self.kernel_size[axis], self.stride[axis], int(self.padding[axis])
        if (length + 2 * padding - kernel) // stride != 0:
            return None
        return slice(padding, min(kernel, padding + length))


def fast(net: nn.Module) -> nn.Module:
    """Let the plain convolutions of `net` be `Convolution`s, in place; the weights and their names stay."""
    for module in net.modules():
        if type(module) is nn.Conv2d and _plain(module):
            module.__class__ = Convolution
    return net


def _plain(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)
