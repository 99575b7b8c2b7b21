"""Convolutions on few pixels, or of few channels: the same answers and gradients in a part of the time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, pixel_unshuffle

FEW = 16  # pixels, up to which a kernel of one pixel is faster as a product
FEWER = 4  # pixels, up to which a larger kernel is, if it gives at least as many channels as it takes
COLOURS = 4  # channels, up to which torch's gradient with respect to an image is slow


class Convolution(nn.Conv2d):
    """A convolution (n, in, h, w) -> (n, out, h', w') that multiplies matrices where it meets few pixels.

    Networks made for 224 pixels shrink images of 32 to one pixel before their last layers. All but the centre of a
    kernel of 3 x 3 meets padding there, and the rest is one matrix: a ninth of the work.

    The first convolution of a network meets three channels, which processors do not fill their registers with. Where
    the gradient with respect to the image is wanted, its strides become channels (space to depth).
    """

    whole: Tensor | None = None  # the kernel, while `weight` is the `part` of it that meets pixels
    part: tuple[slice, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """The answers of `nn.Conv2d`, to rounding."""
        size = x.shape[2:]
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and size.numel() <= FEW:
            return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if x.requires_grad and self._meets_colours(size):
            return self._by_depth(x, self.stride[0])
        rows, columns = (self._met(length, axis) for axis, length in enumerate(size))
        if rows is None or columns is None:
            return self._by_patches(x) if self._meets_few(size) else super().forward(x)
        seen = self.weight if self.whole is not None else self.weight[:, :, rows, columns]
        image = x if size == seen.shape[2:] else x[:, :, : seen.shape[2], : seen.shape[3]]
        return linear(_pixel_by_pixel(image), _pixel_by_pixel(seen), self.bias)[:, :, None, None]

    def _meets_few(self, size: torch.Size) -> bool:
        """Whether patches pay: of few pixels, each of which gives a pixel with no fewer channels."""
        same = all(2 * int(self.padding[axis]) + 1 == self.kernel_size[axis] for axis in (0, 1))
        return same and self.stride == (1, 1) and size.numel() <= FEWER and self.in_channels <= self.out_channels

    def _by_patches(self, x: Tensor) -> Tensor:
        """Of all that the kernel meets at each of its places, padding too."""
        size = x.shape[2:]
        pixels = pad(x.permute(0, 2, 3, 1).flatten(1, 2), (0, 0, 0, 1))
        met = pixels.index_select(1, _pixels_met(*size, *self.kernel_size).to(x.device)).unflatten(1, (*size, -1))
        return linear(met.flatten(3), _pixel_by_pixel(self.weight), self.bias).permute(0, 3, 1, 2)

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

    def trim(self, size: Sequence[int]) -> None:
        """Let `weight` be the part that meets pixels, if images of this `size` meet the kernel at one place."""
        rows, columns = (self._met(length, axis) for axis, length in enumerate(size))
        if rows is not None and columns is not None and self.whole is None:
            part = self.weight.detach()[:, :, rows, columns]
            if part.numel() < self.weight.numel():
                self.whole, self.part = self.weight.detach(), (slice(None), slice(None), rows, columns)
                self.weight = nn.Parameter(
                    part.clone(memory_format=torch.channels_last), requires_grad=self.weight.requires_grad
                )

    def restore(self) -> None:
        """Put the part back into the whole kernel."""
        if self.whole is not None:
            part = self.weight
            self.whole[self.part] = part.detach()
            self.weight, self.whole = nn.Parameter(self.whole, requires_grad=part.requires_grad), None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As any module's, with the whole kernel."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.whole is not None:
            whole = self.whole.clone()
            whole[self.part] = self.weight.detach()
            destination[f"{prefix}weight"] = whole


def fast(net: nn.Module) -> nn.Module:
    """Let the plain convolutions of `net` be `Convolution`s, in place; the weights and their names stay."""
    for module in net.modules():
        if type(module) is nn.Conv2d and _plain(module):
            module.__class__ = Convolution
    return net


@contextmanager
def trimmed(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, kernels that meet images `x` (n, ...) at one place are no larger than what they meet of them.

    A training neither copies nor moves the rest, which has no gradient: in a ResNet-18 of 32 pixels 7 of 11 million
    weights. Weight decay leaves it alone too. All kernels are laid out pixel by pixel (channels last). Parameters are
    others inside, of the same names; `state_dict` has the whole kernels all the same.
    """
    found = [module for module in model.modules() if isinstance(module, Convolution)]
    sizes: dict[nn.Module, set[torch.Size]] = {module: set() for module in found}
    hooks = [each.register_forward_pre_hook(lambda m, args: sizes[m].add(args[0].shape[2:])) for each in found]
    training = {module: module.training for module in model.modules()}
    with torch.no_grad():
        model.eval()(x)
    for module, flag in training.items():
        module.training = flag
    for hook in hooks:
        hook.remove()
    for each in found:
        each.weight.data = each.weight.data.contiguous(memory_format=torch.channels_last)
        if len(sizes[each]) == 1:
            each.trim(*sizes[each])
    try:
        yield
    finally:
        for each in found:
            each.restore()


@cache
def _pixels_met(height: int, width: int, rows: int, columns: int) -> Tensor:
    """At each pixel, which ones a kernel about it meets, (pixels x rows x columns,); for padding their number."""
    pixels = torch.arange(height * width).view(height, width)
    around = pad(pixels, (columns // 2, columns // 2, rows // 2, rows // 2), value=height * width)
    return around.unfold(0, rows, 1).unfold(1, columns, 1).flatten()


def _pixel_by_pixel(x: Tensor) -> Tensor:
    """(n, channels, h, w) -> (n, h x w x channels)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _plain(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)
