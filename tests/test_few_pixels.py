"""Convolutions on few pixels give what torch's convolutions give, and so do their gradients."""

from __future__ import annotations

import copy
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from metav import scenarios
from metav.scenarios.few_pixels import Convolution, fast, trimmed
from metav.suspects.base import Draft, Training, all_names, layers
from metav.training import CLASSIFICATION, Part, fit

CASES = [
    case
    for case in product((1, 2, 3, 4), (1, 3, 6), (1, 2, 3), (1, 2), (0, 1))
    if min(case[:2]) + 2 * case[4] >= case[2] and case[4] < case[2]
] + [(13, 12, 7, 2, 3), (12, 13, 7, 2, 0), (16, 15, 11, 4, 2), (5, 6, 2, 3, 0), (2, 2, 1, 1, 1)]


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


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (4, 1), (3, 2)])
def test_patches_of_few_pixels_give_what_torch_gives(size):
    torch.manual_seed(0)
    slow = nn.Conv2d(3, 5, (3, 5), padding=(1, 2)).double()
    quick = fast(nn.Sequential(copy.deepcopy(slow)))
    x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    answers = [model(x) for model in (slow, quick)]
    torch.testing.assert_close(*answers)
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


def trained(model, names, fit):
    """The model's weights after a few steps on random lesions, and after the first epoch."""
    torch.manual_seed(1)
    parts = {"own": Part(x=torch.rand(64, 3, 28, 28) * 2 - 1, y=torch.randint(7, (64,)))}
    training = Training(data="own", epochs=2, lr=0.001, batch=32, seed=0)
    draft = Draft(model=model, training=training, trainable=names, snapshots=(1,))
    fit([draft], parts)
    return model.state_dict(), draft.kept[1]


@pytest.mark.parametrize("name", ["S", "M", "L", "XL", "small"])
@pytest.mark.parametrize("tuned", [False, True])
def test_a_training_of_the_parts_that_meet_pixels_ends_in_the_same_weights(name, tuned):
    scenario = scenarios.load("skin", "smoke")
    plain = partial(fit, objective=CLASSIFICATION)
    whole, part = (scenario.fresh(name, seed=5) for _ in range(2))
    for model in (whole, part) if tuned else ():  # a pruned model, all of whose layers learn but the first
        for _, layer in layers(model):
            layer.weight.data *= layer.weight.abs() > layer.weight.abs().median()
    names = all_names(whole)[int(tuned) :]
    expected, found = trained(whole, names, plain), trained(part, names, scenario.fit)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(parameter.requires_grad for parameter in part.parameters())
    first = scenario.fresh(name, seed=5).state_dict()
    assert any(not torch.equal(first[each], found[0][each]) for each in first)


def test_inside_kernels_are_smaller_and_behind_it_whole_again_whatever_happens():
    model = scenarios.load("skin", "smoke").fresh("M", seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count = sum(each.numel() for each in model.parameters())
    x = torch.rand(2, 3, 28, 28)
    answers = model(x)
    model.load_state_dict(before)  # batch statistics

    def inside():
        assert sum(each.numel() for each in model.parameters()) < 0.5 * count
        assert model.training
        torch.testing.assert_close(model.state_dict(), before)
        torch.testing.assert_close(model(x), answers)
        with torch.no_grad():
            model.net.layer4[1].conv2.weight += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), trimmed(model, x[:1]):
        inside()
    assert sum(each.numel() for each in model.parameters()) == count
    moved = model.state_dict()["net.layer4.1.conv2.weight"] - before["net.layer4.1.conv2.weight"]
    assert torch.equal(moved.round()[0, 0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
