"""Convolutions on few pixels give what torch's convolutions give, and so do their gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from metav.scenarios.few_pixels import Convolution, fast

CASES = [
    case
    for case in product((1, 2, 3, 4), (1, 3, 6), (1, 2, 3), (1, 2), (0, 1))
    if min(case[:2]) + 2 * case[4] >= case[2] and case[4] < case[2]
] + [(13, 12, 7, 2, 3), (12, 13, 7, 2, 0), (16, 15, 11, 4, 2), (5, 6, 2, 3, 0)]


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_answers_and_gradients_are_those_of_torch(height, width, kernel, stride, padding, layout):
    torch.manual_seed(0)
    slow = nn.Conv2d(3, 5, kernel, stride, padding, bias=height % 2 == 0).double()
    quick = nn.Sequential(nn.Conv2d(3, 5, kernel, stride, padding, bias=height % 2 == 0).double())
    quick[0].load_state_dict(slow.state_dict())
    fast(quick)
    assert type(quick[0]) is Convolution
    x = torch.randn(2, 3, height, width, dtype=torch.double).contiguous(memory_format=layout).requires_grad_(True)
    answers = [model(x) for model in (slow, quick)]
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(quick(x.detach()), answers[0])
    slope = torch.randn_like(answers[0])
    ours, theirs = (
        torch.autograd.grad(answer, [x, *model.parameters()], slope)
        for answer, model in zip(answers, (slow, quick), strict=True)
    )
    torch.testing.assert_close(ours, theirs)


def test_what_it_cannot_compute_stays_torchs():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
    )
    before = [type(module) for module in net]
    assert [type(module) for module in fast(net)] == before


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_larger_than_the_image_is_refused_as_torch_does(stride):
    for x in (torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2, requires_grad=True)):
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            fast(nn.Sequential(nn.Conv2d(3, 5, 5, stride)))(x)
