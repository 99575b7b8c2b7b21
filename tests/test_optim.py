"""Our Adam is torch's, without its compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from metav.optim import Adam


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.999)])
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_torch(betas, transposed):
    """Also where gradients come with other strides than their parameters."""
    start = [torch.randn(3, 7) if transposed else torch.randn(7, 3), torch.randn(3)]
    mine, theirs = ([p.clone().requires_grad_(True) for p in start] for _ in range(2))
    x = torch.randn(20, 7)

    def loss(weight, bias):
        return (x @ (weight.mT if transposed else weight) + bias).pow(2).sum()

    ours, reference = Adam(mine, 0.01, betas), torch.optim.Adam(theirs, 0.01, betas)
    for _ in range(30):
        ours.step(torch.autograd.grad(loss(*mine), mine))
        reference.zero_grad()
        loss(*theirs).backward()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_equals_torch_on_kernels_that_are_stored_pixel_by_pixel():
    kernel, gradient = torch.randn(2, 5, 4, 3, 3)
    mine, theirs = kernel.contiguous(memory_format=torch.channels_last), kernel.clone()
    ours, reference = Adam([mine], 0.01), torch.optim.Adam([theirs], 0.01)
    theirs.grad = gradient
    for _ in range(5):
        ours.step([gradient])
        reference.step()
    assert mine.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(mine, theirs, atol=1e-6)


LIGHT = """
import sys, torch
from metav.optim import Adam
p = torch.ones(3, requires_grad=True)
Adam([p], 0.1).step([torch.ones(3)])
assert "torch._dynamo" not in sys.modules
"""


def test_a_step_does_not_import_the_compiler():
    assert subprocess.run([sys.executable, "-c", LIGHT], check=False).returncode == 0
