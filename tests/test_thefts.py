"""Ways to steal and to train beyond the paper's: fewer bits, noise, changed answers, extraction, losses, optimisers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import tiny
from metav import adversarial
from metav.engine import seeded
from metav.errors import UsageError
from metav.optim import SGD, Adam
from metav.scenarios import Suspect
from metav.suspects import Distillation, parse
from metav.suspects.base import Draft, Training, layers
from metav.suspects.changed_answers import AnswerNoise, Clipping, Rescaling, Rounding, Tempering
from metav.suspects.changed_inputs import Blurring, Compression, Squeezing
from metav.suspects.fine_pruning import cut_off
from metav.suspects.perturbation import Quantisation, WeightNoise
from metav.training import (
    Objective,
    Part,
    absolute_error,
    adverse,
    anneal,
    class_error,
    fit,
    huber_error,
    quantile_error,
    soften,
    squared_error,
)
from metav.zoo import Zoo

TARGET = "S(own,30ep,lr=0.001,batch=64,seed=0)"
PLAIN = {"data": "public", "epochs": 3, "lr": 0.01, "batch": 8, "seed": 3}


def net(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


# -- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_weights_take_few_values_near_their_own(bits):
    parent = net()
    model = Quantisation(bits=bits).draft(parent, None).model
    for before, after in zip(parent.parameters(), model.parameters(), strict=True):
        unit = before.abs().max() / (2 ** (bits - 1) - 1)
        assert len(after.unique()) <= 2**bits - 1
        assert (before - after).abs().max() <= unit / 2 * 1.001
        assert torch.allclose(after / unit, (after / unit).round(), atol=1e-3)


def test_weight_noise_is_of_the_asked_size_and_a_function_of_the_seed():
    parent = nn.Sequential(nn.Linear(200, 200))
    one, again, other = (WeightNoise(ratio=0.2, seed=s).draft(parent, None).model for s in (1, 1, 2))
    before, after = parent[0].weight, one[0].weight
    assert (after - before).std().item() == pytest.approx(0.2 * before.std().item(), rel=0.02)
    assert torch.equal(after, again[0].weight)
    assert not torch.equal(after, other[0].weight)


class Echo(nn.Module):
    """Hidden units, each active as much as the input that it sees; one of them on both sides of zero."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.hidden, self.last = nn.Identity(), last

    def forward(self, x):
        return self.last(self.hidden(x))


def test_fine_pruning_of_a_last_layer_over_positions_looks_at_its_features():
    last = nn.Linear(4, 3)
    x = torch.tensor([3.0, 0.1, 2.0, 0.2]).expand(5, 6, 4)  # examples, positions, features
    cut_off(Echo(last), 0.5, x)
    assert (last.weight == 0).all(0).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("last", "axis"),
    [(nn.Linear(4, 3), 1), (nn.Conv2d(4, 3, 3), 1), (nn.ConvTranspose2d(4, 3, 3), 0)],
    ids=["linear", "convolution", "transposed"],
)
def test_fine_pruning_cuts_off_the_units_that_do_least(last, axis):
    size = torch.tensor([3.0, 0.1, 2.0, 0.2])
    x = torch.stack([size, torch.tensor([-3.0, 0.1, 2.0, 0.2])])  # the first unit is 0 on average, but not dormant
    x = x if axis == 1 and last.weight.dim() == 2 else x[:, :, None, None].expand(-1, -1, 5, 5)
    model = Echo(last)
    before = last.weight.detach().clone()
    cut_off(model, 0.5, x)
    after = last.weight.detach().movedim(axis, 0)
    assert (after[[1, 3]] == 0).all()
    assert torch.equal(after[[0, 2]], before.movedim(axis, 0)[[0, 2]])


def test_a_fine_pruned_model_is_tuned_and_stays_pruned(warfarin, tmp_path):
    """Its dormant units are those of the public data, and it learns after that."""
    text = "target>fineprune(public,2ep,lr=0.001,batch=64,seed=1,dormant=0.5)"
    zoo = Zoo(replace(warfarin, suspects=(Suspect(lineage=text, family="", positive=True),)), tmp_path)
    zoo.build(jobs=1)
    target, model = zoo.load("target"), zoo.load(text)
    expected = deepcopy(target)
    cut_off(expected, 0.5, warfarin.parts["public"].x)
    (_, last), (_, pruned) = layers(model)[-1], layers(expected)[-1]
    dormant = (pruned.weight == 0).all(0)
    assert dormant.sum() == round(0.5 * len(dormant))
    assert torch.equal((last.weight == 0).all(0), dormant)
    assert not torch.equal(last.weight, pruned.weight)


# -- answers -------------------------------------------------------------------------------------------------------

ANSWERS = torch.tensor([[12.4], [-3.0], [88.0]])


@pytest.mark.parametrize(
    ("link", "step", "expected"),
    [
        ("rounded(5)", Rounding(unit=5), [[10], [-5], [90]]),
        ("clipped(low=10,high=70)", Clipping(low=10, high=70), [[12.4], [10], [70]]),
        ("rescaled(scale=1.5,shift=2)", Rescaling(scale=1.5, shift=2), [[20.6], [-2.5], [134]]),
    ],
)
def test_answers_are_changed_on_their_way_out(link, step, expected):
    parent = net()
    assert parse(f"target>{link}", TARGET).step == step
    assert torch.allclose(step.changed(ANSWERS), torch.tensor(expected, dtype=torch.float32))
    x = torch.randn(4, 5)
    assert torch.equal(step.draft(parent, None).model(x), step.changed(parent(x)))


def test_noisy_answers_are_the_same_in_each_call():
    step = AnswerNoise(size=2.0, seed=1)
    answers = torch.zeros(5000, 1)
    assert step.changed(answers).std().item() == pytest.approx(2, rel=0.05)
    assert torch.equal(step.changed(answers), step.changed(answers))


def test_tempered_probabilities_are_those_of_divided_logits():
    logits = torch.randn(6, 4)
    found = Tempering(temperature=2.5).changed(logits.softmax(-1))
    assert torch.allclose(found, (logits / 2.5).softmax(-1), atol=1e-6)
    assert Tempering(temperature=2).changed(torch.tensor([[1.0, 0.0]])).isfinite().all()


def test_a_temperature_of_one_makes_probabilities_of_noisy_ones():
    noisy = torch.tensor([[0.7, 0.35, -0.02], [0.2, 0.3, 0.5]])
    found = Tempering(temperature=1).changed(noisy)
    assert torch.allclose(found, torch.tensor([[2 / 3, 1 / 3, 0.0], [0.2, 0.3, 0.5]]), atol=1e-6)


def test_squeezed_inputs_have_few_values_and_answers_are_not_changed():
    x = torch.tensor([[0.3, -0.99, 0.06], [1.0, 0.0, 0.1]])
    model = Squeezing(unit=0.25).wrap(nn.Identity())
    assert model(x).tolist() == [[0.25, -1.0, 0.0], [1.0, 0.0, 0.0]]


def test_blurred_images_are_what_a_gaussian_makes_of_them():
    x = torch.zeros(1, 2, 15, 15)
    x[0, 1, 7, 7] = 1
    seen = Blurring(size=1.0).seen(x)
    assert seen.shape == x.shape
    assert seen[0, 0].abs().max() == 0  # colours stay apart
    kernel = torch.exp(-(torch.arange(-2, 3.0) ** 2) / 2)
    kernel = kernel / kernel.sum()
    assert torch.allclose(seen[0, 1, 5:10, 5:10], kernel[:, None] * kernel)
    assert torch.allclose(Blurring(size=2.0).seen(torch.full((1, 3, 9, 9), 0.3)), torch.full((1, 3, 9, 9), 0.3))


def test_compressed_images_are_near_and_poorer_ones_further():
    smooth = torch.linspace(-1, 1, 28).expand(3, 3, 28, 28)
    far = [(Compression(quality=quality).seen(smooth) - smooth).abs().mean().item() for quality in (95, 20)]
    assert 0 < far[0] < far[1] < 0.1
    assert Compression(quality=50).seen(smooth).shape == smooth.shape


def test_what_the_model_sees_is_changed_and_its_answers_are_not():
    model = tiny.frozen(tiny.of_images(0))
    x = torch.rand(4, 3, 8, 8) * 2 - 1
    step = Blurring(size=1.0)
    assert torch.equal(step.draft(model, None).model(x), model(step.seen(x)))


def test_a_zoo_keeps_and_gives_back_a_model_behind_a_facade(warfarin, tmp_path):
    links = ("target>rounded(5)", "target>rounded(5)>noisy(2.0,seed=1)")
    unseen = tuple(Suspect(lineage=text, family="changed answers", positive=True) for text in links)
    zoo = Zoo(replace(warfarin, suspects=(), open_world=unseen), tmp_path / "zoo", open_world=True)
    assert zoo.build(jobs=1) == 3
    x = zoo.scenario.parts["test"].x
    plain, changed, twice = (zoo.load(text)(x) for text in ("target", *links))
    assert torch.equal(changed, (plain / 5).round() * 5)
    assert torch.equal(twice, AnswerNoise(size=2, seed=1).changed(changed))


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("quantise(1)", "2 to 16 bits, got 1"),
        ("jitter(0,seed=1)", "noise above 0"),
        ("rounded(0)", "finite unit above 0"),
        ("noisy(inf,seed=1)", "finite size above 0"),
        ("clipped(low=3,high=3)", "low below high"),
        ("rescaled(scale=-1)", "finite scale above 0"),
        ("tempered(0)", "finite temperature above 0"),
        ("blurred(0)", "finite size above 0"),
        ("squeezed(0)", "finite unit above 0"),
        ("fineprune(public,2ep,lr=0.001,batch=64,seed=1,dormant=1)", "a pruning ratio above 0 and below 1"),
        ("compressed(0)", "a quality from 1 to 95, got 0"),
        ("ftal(public,3ep,lr=0.1,batch=8,seed=1,adversarial=-1)", "adversarial change of at least 0"),
        ("ftal(public,3ep,lr=0.1,batch=8,seed=1,optimiser=adamm)", "did you mean 'adam'"),
        ("ftal(public,3ep,lr=0.1,batch=8,seed=1,decay=-1)", "weight decay of at least 0"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(link, words):
    with pytest.raises(UsageError, match=words):
        parse(f"target>{link}", TARGET)


# -- trainings -----------------------------------------------------------------------------------------------------

LOSSES = {"mse": squared_error, "huber": huber_error, "quantile": quantile_error}
OBJECTIVE = Objective(loss=absolute_error, imitation=lambda *_: pytest.fail("no teacher is imitated"), losses=LOSSES)


def trained(**settings) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), 3 * torch.randn(64, 2, generator=generator)
    model = net()
    names = tuple(name for name, _ in model.named_parameters())
    draft = Draft(model=model, training=Training(**{**PLAIN, **settings}), trainable=names)
    fit([draft], {"public": Part(x=x, y=y)}, OBJECTIVE)
    return model


def literal(loss, make) -> nn.Module:
    """The same training as plain PyTorch writes it."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), 3 * torch.randn(64, 2, generator=generator)
    model, order = net(), torch.Generator().manual_seed(PLAIN["seed"])
    optimiser = make(model.parameters())
    for _ in range(PLAIN["epochs"]):
        for rows in torch.randperm(64, generator=order).split(PLAIN["batch"]):
            optimiser.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model


def pinball(outputs, targets):
    missed = targets - outputs
    return torch.where(missed > 0, 0.6 * missed, -0.4 * missed).mean()


@pytest.mark.parametrize(
    ("settings", "loss", "make"),
    [
        ({"loss": "mse"}, nn.functional.mse_loss, lambda p: torch.optim.Adam(p, 0.01)),
        ({"loss": "huber"}, nn.HuberLoss(delta=5.0), lambda p: torch.optim.Adam(p, 0.01)),
        ({"loss": "quantile"}, pinball, lambda p: torch.optim.Adam(p, 0.01)),
        ({"optimiser": "sgd"}, nn.functional.l1_loss, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
        ({"decay": 0.3}, nn.functional.l1_loss, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3)),
    ],
)
def test_losses_and_optimisers_are_those_of_torch(settings, loss, make):
    ours, theirs = trained(**settings), literal(loss, make)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    assert not torch.allclose(ours[0].weight, trained()[0].weight, atol=1e-4)


def test_an_unknown_loss_is_a_sentence():
    with pytest.raises(UsageError, match="did you mean 'mse'"):
        trained(loss="msee")


def test_weight_decay_of_sgd():
    mine, theirs = ([torch.ones(3, requires_grad=True)] for _ in range(2))
    ours = SGD(mine, 0.1, decay=0.5)
    ours.step([torch.zeros(3)])
    assert torch.allclose(mine[0], torch.full((3,), 0.95))
    assert set(ours.state()) == {"sgd.velocity.0"}
    assert Adam(theirs, 0.1).decay == 0


def test_an_extraction_has_the_teachers_answers_and_no_labels():
    """Whatever the labels are, the student is the same; a distillation's are not."""
    teacher = net(7).eval().requires_grad_(False)
    x = torch.randn(32, 5)
    objective = Objective(loss=absolute_error, imitation=lambda *given: anneal(absolute_error, *given))

    def student(labels: torch.Tensor, with_labels: int) -> nn.Module:
        step = Distillation(**PLAIN, student="x", labels=with_labels)
        draft = step.draft(teacher, lambda _, seed: net(seed))
        fit([draft], {"public": Part(x=x, y=labels)}, objective)
        return draft.model

    zeros, ones = torch.zeros(32, 2), torch.ones(32, 2)
    assert torch.equal(student(zeros, 0)[0].weight, student(ones, 0)[0].weight)
    assert not torch.equal(student(zeros, 1)[0].weight, student(ones, 1)[0].weight)
    pair = [Distillation(**PLAIN, student="x", labels=0).draft(teacher, lambda _, seed: net(seed)) for _ in range(2)]
    fit(pair, {"public": Part(x=x, y=ones)}, objective)
    assert torch.allclose(pair[1].model[0].weight, student(zeros, 0)[0].weight, atol=1e-5)


def test_a_copycat_has_the_teachers_classes_and_nothing_else():
    """Answers of other confidence, but the same classes, make the same student; an extraction's differ."""
    x = torch.randn(32, 5)
    sure = net(7).eval().requires_grad_(False)
    unsure = nn.Sequential(*sure[:2], nn.Linear(8, 2)).requires_grad_(False)
    unsure[2].load_state_dict({name: 0.1 * value for name, value in sure[2].state_dict().items()})
    objective = Objective(loss=class_error, imitation=partial(soften, 4.0, 0.9), labelled=partial(torch.argmax, dim=-1))

    def student(teacher: nn.Module, soft: int) -> nn.Module:
        draft = Distillation(**PLAIN, student="x", labels=0, soft=soft).draft(teacher, lambda _, seed: net(seed))
        fit([draft], {"public": Part(x=x, y=torch.zeros(32, dtype=torch.long))}, objective)
        return draft.model

    assert torch.equal(student(sure, 0)[0].weight, student(unsure, 0)[0].weight)
    assert not torch.equal(student(sure, 1)[0].weight, student(unsure, 1)[0].weight)
    classes = [student(sure, 0)(x).argmax(1), sure(x).argmax(1)]
    assert (classes[0] == classes[1]).float().mean() > (net(3)(x).argmax(1) == classes[1]).float().mean()


def test_adverse_inputs_raise_the_loss_within_their_range():
    model, x, y = net(1), torch.rand(16, 5), torch.randn(16, 2)
    moved = adverse(model, absolute_error, x, y, 0.05)
    assert (moved - x).abs().max() <= 0.05 + 1e-6
    assert x.min() <= moved.min() <= moved.max() <= x.max()
    assert absolute_error(model(moved), y).mean() > absolute_error(model(x), y).mean()
    assert not torch.equal(trained(adversarial=0.1)[0].weight, trained()[0].weight)


@pytest.mark.parametrize("asked", ["loss=mse", "optimiser=sgd", "adversarial=0.1", "decay=0.1"])
def test_a_gan_has_its_own_losses(asked):
    step = parse(f"target>ftal(public,1ep,lr=0.1,batch=8,seed=1,{asked})", TARGET).step
    with pytest.raises(UsageError, match="expected a GAN's own losses"):
        adversarial.fit([Draft(model=nn.Identity(), training=step)], {})
