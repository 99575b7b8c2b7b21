"""Ways to steal and to train beyond the paper's: fewer bits, noise, changed answers, extraction, losses, optimisers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from metav.errors import UsageError
from metav.optim import SGD, Adam
from metav.scenarios import Suspect
from metav.suspects import Distillation, parse
from metav.suspects.base import Draft, Training
from metav.suspects.facade import AnswerNoise, Clipping, Rescaling, Rounding
from metav.suspects.perturbation import Quantisation, WeightNoise
from metav.training import Objective, Part, absolute_error, anneal, fit, huber_error, quantile_error, squared_error
from metav.zoo import Zoo

TARGET = "S(own,30ep,lr=0.001,batch=64,seed=0)"
PLAIN = {"data": "public", "epochs": 3, "lr": 0.01, "batch": 8, "seed": 3}


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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


def test_a_zoo_keeps_and_gives_back_a_model_behind_a_facade(warfarin, tmp_path):
    links = ("target>rounded(5)", "target>rounded(5)>noisy(2.0,seed=1)")
    strangers = tuple(Suspect(lineage=text, family="changed answers", positive=True) for text in links)
    zoo = Zoo(replace(warfarin, suspects=(), strangers=strangers), tmp_path / "zoo", open_world=True)
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
