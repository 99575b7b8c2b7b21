"""Convolutions on few pixels as matrix products: the same answers and gradients in a part of the time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear

FEW = 16  # pixels, up to which a kernel of one pixel is faster as a product


class Convolution(nn.Conv2d):
    """A convolution (n, in, h, w) -> (n, out, h', w') that multiplies matrices where it meets few pixels.

    Networks made for 224 pixels shrink images of 32 to one pixel before their last layers. All but the centre of a
    kernel of 3 x 3 meets padding there, and the rest is one matrix: a ninth of the work.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The answers of `nn.Conv2d`, to rounding."""
        size = x.shape[2:]
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and size.numel() <= FEW:
            return linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
        rows, columns = (self._met(length, axis) for axis, length in enumerate(size))
        if rows is None or columns is None:
            return super().forward(x)
        seen = self.weight[:, :, rows, columns].flatten(1)
        image = x[:, :, : rows.stop - rows.start, : columns.stop - columns.start].flatten(1)
        return linear(image, seen, self.bias)[:, :, None, None]

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
