"""Each way to derive a suspect does what it says, on small nets of two kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metav.engine import seeded
from metav.errors import UsageError
from metav.suspects import FilterPruning, FineTuning, Independent, Retraining, WeightPruning
from metav.suspects.base import layers

SCHEDULE = {"data": "public", "epochs": 1, "lr": 0.01, "batch": 8, "seed": 3}


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 25, 3),
    ).to(memory_format=torch.channels_last)


NETS = {"perceptron": perceptron, "convolutional": convolutional}


def fresh(architecture: str, seed: int) -> nn.Module:
    with seeded(seed):
        return NETS[architecture]()


@pytest.fixture(params=NETS)
def parent(request) -> nn.Module:
    return fresh(request.param, 0)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weight_pruning_zeroes_the_smallest(parent, ratio, scope):
    before = state(parent)
    pruned = WeightPruning(ratio=ratio, scope=scope).draft(parent, fresh).model
    assert same(state(parent), before)
    assert pruned.state_dict().keys() == before.keys()
    pairs = [
        (dict(parent.named_modules())[name].weight.detach(), layer.weight.detach()) for name, layer in layers(pruned)
    ]
    if scope == "global":
        pairs = [(torch.cat([a.flatten() for a, _ in pairs]), torch.cat([b.flatten() for _, b in pairs]))]
    for old, new in pairs:
        assert (new == 0).sum() == round(ratio * old.numel())
        assert torch.equal(new[new != 0], old[new != 0])
        assert old[new == 0].abs().max() <= old[new != 0].abs().min()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weight_pruning_reaches_the_weights_of_attention_and_of_recurrent_layers(scope):
    with seeded(0):
        parent = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "gru": nn.GRU(8, 6), "out": nn.Linear(6, 2)})
    pruned = WeightPruning(ratio=0.5, scope=scope).draft(parent, fresh).model
    before = {name: each for name, each in parent.named_parameters() if each.dim() == 2}
    assert {"attention.in_proj_weight", "gru.weight_ih_l0", "gru.weight_hh_l0"} < before.keys()
    left = {name: pruned.get_parameter(name) for name in before}
    if scope == "layer":
        assert all(int((each == 0).sum()) == each.numel() // 2 for each in left.values())
    else:
        assert sum(int((each == 0).sum()) for each in left.values()) == sum(map(torch.numel, left.values())) // 2
    x = torch.ones(3, 1, 8)
    expected = nn.GRU(8, 6)
    expected.load_state_dict(pruned["gru"].state_dict())
    assert torch.equal(pruned["gru"](x)[0], expected(x)[0])  # what it computes with is what was pruned


@pytest.mark.parametrize("sixteenths", [1, 8, 15])
def test_filter_pruning_zeroes_whole_filters_of_every_convolution(sixteenths):
    parent = fresh("convolutional", 0)
    pruned = FilterPruning(ratio=sixteenths / 16).draft(parent, fresh).model
    for index, axis in ((0, 0), (3, 1)):
        norms = parent[index].weight.detach().abs().transpose(0, axis).flatten(1).sum(1)
        new = pruned[index].weight.detach().transpose(0, axis).flatten(1)
        gone = (new == 0).all(1)
        assert gone.sum() == min(max(1, round(sixteenths / 16 * len(norms))), len(norms) - 1)  # one always stays
        if gone.any() and not gone.all():
            assert norms[gone].max() <= norms[~gone].min()
        assert (pruned[index].bias.detach()[gone] == 0).all()


def test_filter_pruning_needs_convolutions():
    with pytest.raises(UsageError, match="convolutions"):
        FilterPruning(ratio=0.5).draft(perceptron(), fresh)


def test_fine_tuning_takes_the_last_layers(parent):
    total = len(layers(parent))
    for last, first in ((1, total - 1), (2, total - 2), (0, 0)):
        draft = FineTuning(**SCHEDULE, last=last).draft(parent, fresh)
        assert same(state(draft.model), state(parent))
        names = [name for name, _ in layers(draft.model)]
        weights = {name for name in draft.trainable if any(name == f"{layer}.weight" for layer in names)}
        assert weights == {f"{name}.weight" for name in names[first:]}
    with pytest.raises(UsageError, match="layers, got 9"):
        FineTuning(**SCHEDULE, last=9).draft(parent, fresh)


@pytest.mark.parametrize(("last", "reset"), [(1, 1), (2, 2), (0, 1)])
def test_retraining_resets_the_last_layers_only(parent, last, reset):
    draft = Retraining(**SCHEDULE, last=last).draft(parent, fresh)
    names = [name for name, _ in layers(parent)]
    changed = [
        name
        for name in names
        if not torch.equal(parent.get_submodule(name).weight, draft.model.get_submodule(name).weight)
    ]
    assert changed == names[-reset:]
    assert len(draft.trainable) == len(FineTuning(**SCHEDULE, last=last).draft(parent, fresh).trainable)


def test_seeds_decide_new_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, two, other = (
        Independent(**{**SCHEDULE, "seed": seed}, architecture="perceptron").draft(None, fresh).model
        for seed in (3, 3, 4)
    )
    assert same(state(one), state(two))
    assert not same(state(one), state(other))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_of_one_layer_is_tuned_and_retrained_whole():
    alone = nn.Linear(5, 1)
    assert FineTuning(**SCHEDULE, last=1).draft(alone, fresh).trainable == ("weight", "bias")
    drawn = Retraining(**SCHEDULE, last=1).draft(alone, fresh).model
    assert not torch.equal(drawn.weight, alone.weight)


def test_of_few_filters_one_goes_at_least():
    with seeded(0):
        few = nn.Conv2d(1, 4, 3)
    pruned = FilterPruning(ratio=0.125).draft(nn.Sequential(few), fresh).model
    assert int((pruned[0].weight.flatten(1) == 0).all(1).sum()) == 1


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_pruned_filters_are_channels_of_the_answer_in_groups_too(kind, groups):
    with seeded(0):
        layer, x = kind(4, 6, 3, groups=groups), torch.randn(2, 4, 5, 5)
    pruned = FilterPruning(ratio=0.5).draft(nn.Sequential(layer), fresh).model
    gone = (pruned(x) == 0).all(3).all(2).all(0)
    assert torch.equal(pruned(x)[:, ~gone], layer(x)[:, ~gone])
    slopes = [torch.autograd.grad(layer(x)[:, each].sum(), layer.weight)[0] for each in range(6)]  # of its own weights
    sizes = torch.stack([layer.weight[slope != 0].abs().sum() for slope in slopes])
    assert gone.nonzero().flatten().tolist() == sizes.argsort()[:3].sort().values.tolist()


def test_of_a_small_matrix_one_weight_stays():
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1))
    pruned = WeightPruning(ratio=0.9).draft(model, fresh).model
    assert [int((layer.weight != 0).sum()) for layer in pruned] == [1, 1]
    assert pruned[0].weight.abs().max() == model[0].weight.abs().max()
