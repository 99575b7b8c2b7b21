"""What a task's own training may do, how values of several units are learnt, and who has learnt at all."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from metav import Ensemble, Part, flaws, training
from metav.building import build_group
from metav.errors import MetavError, UsageError
from metav.scenarios.quality import error
from metav.schemes import get
from metav.storage import digest
from metav.training import CLASSIFICATION
from metav.training import fit as usual
from metav.zoo import Zoo
from own_task import SPEC, Fixed, network, part, task

REGRESSION = replace(SPEC, output="regression")


def ruthless(drafts, parts) -> None:
    """Change all weights of all models."""
    for draft in drafts:
        with torch.no_grad():
            for parameter in draft.model.parameters():
                parameter.add_(0.1)


def hopeless(drafts, parts) -> None:
    """End in NaN."""
    usual(drafts, parts, CLASSIFICATION)
    for draft in drafts:
        with torch.no_grad():
            draft.model.net[0].weight.fill_(torch.nan)


def built(made, folder) -> Zoo:
    zoo = Zoo(made.scenario(), folder)
    zoo.build(jobs=1)
    return zoo


def test_a_fit_is_given_what_is_to_be_trained_and_nothing_else(tmp_path):
    ready = network()
    mine = task(fit=ruthless, students=0, negatives={"stranger": ready})
    zoo = Zoo(mine.scenario(), tmp_path)
    zoo.prepare()
    for lineage in ("target", "target>wp(0.5)", "ready(stranger)"):
        build_group(zoo, [lineage])
    with pytest.raises(MetavError, match=r"expected net.0.weight of target>.*ll\(.* as it was, got other weights: let"):
        zoo.build(jobs=1)
    assert digest(zoo.load("target").net.state_dict(), {}) == digest(mine.target.state_dict(), {})
    assert digest(zoo.load("ready(stranger)").net.state_dict(), {}) == digest(ready.state_dict(), {})
    assert (zoo.load("target>wp(0.5)").net[0].weight == 0).any()


def test_a_training_that_ends_in_nan_is_told_by_name(tmp_path):
    with pytest.raises(MetavError, match=r"expected finite weights of \S+, got NaN or infinity in net.0.weight"):
        built(task(fit=hopeless, tuning=1), tmp_path)


def values(rows: int, seed: int) -> Part:
    """Two values, in units a thousand times apart, each a function of inputs of its own."""
    x = part(rows, seed).x
    return Part(x=x, y=torch.stack([x[:, 0].sin(), 1000 * x[:, 1].abs()], 1))


class Dimensioned(nn.Module):
    """A network whose answers have units."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(16)

    def forward(self, x):
        return self.net(x) * torch.tensor([1.0, 1000.0])


def learnt(module: nn.Module, data: Part) -> nn.Module:
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        ((module(data.x) - data.y) / data.y.std(0)).square().mean().backward()
        optimiser.step()
    return module.eval()


def of_units(**changes):
    parts = {name: values(300, seed) for seed, name in enumerate(("own", "public", "test"))}
    torch.manual_seed(0)
    target = learnt(Dimensioned(), parts["own"])
    given = {"spec": REGRESSION, "target": target, "architectures": {"net": Dimensioned}, "epochs": 30, "lr": 0.01}
    return task(**parts, **{**given, "students": 0, "independents": 4, **changes})


def test_each_of_several_values_is_learnt_whatever_its_unit(tmp_path):
    mine = of_units()
    zoo = built(mine, tmp_path)
    for suspect in zoo.scenario.suspects:
        if not suspect.positive:
            missed = (zoo.load(suspect.lineage)(mine.test.x) - mine.test.y).square().mean(0)
            assert (missed < 0.5 * mine.test.y.var(0)).all(), suspect.lineage
    assert "each value by its spread" in zoo.scenario.settings["method"]


def test_an_error_of_several_values_is_by_the_spread_of_each():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    unit, off = torch.tensor([1.0, 5000.0]), torch.tensor([0.1, 0.0])

    def target(given):
        return given * unit

    assert error(target, target, Part(x=x, y=target(x)))["mae"] == 0
    assert error(lambda given: target(given + off), target, Part(x=x, y=target(x)))["mae"] == pytest.approx(0.05, 0.2)
    one = Part(x=x, y=5000 * x[:, :1])
    assert error(lambda given: 5000 * given[:, :1] + 7, lambda given: given[:, :1], one)["mae"] == pytest.approx(7)


def flaw_of(mine, folder) -> str:
    zoo = built(mine, folder)
    queries = mine.test.x[:20]
    made = get("metav(iterations=1)").construct(ensemble(zoo), queries=20, seed=0)
    return flaws.flaw(zoo, replace(made, threshold=0.0, reference=zoo.load("target")(queries)))


def ensemble(zoo: Zoo) -> Ensemble:
    known = zoo.scenario.suspects
    return Ensemble(
        target=zoo.load("target"),
        positives=[zoo.load(each.lineage) for each in known if each.positive],
        negatives=[zoo.load(each.lineage) for each in known if not each.positive],
        spec=zoo.scenario.spec,
        data=zoo.scenario.parts["public"].x,
    )


def test_independent_models_that_have_not_learnt_are_a_flaw(tmp_path):
    said = flaw_of(of_units(epochs=1, lr=1e-6), tmp_path)
    assert said.startswith("expected independent models that have learnt the task, got 4 of 4 whose skill (0: a const")


def test_a_target_that_has_not_learnt_is_a_flaw(tmp_path):
    mine = of_units()
    wrong = {name: Part(x=each.x, y=each.y.flip(0)) for name, each in (("own", mine.own), ("public", mine.public))}
    wrong["test"] = Part(x=mine.test.x, y=mine.test.y.flip(0))
    said = flaw_of(replace(mine, **wrong, epochs=1), tmp_path)
    assert said.startswith("expected a target that answers the test part better than a constant does, got one that")


class Silent(nn.Module):
    """A model that computes without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


def broken() -> nn.Module:
    net = network()
    nn.init.constant_(net[0].weight, torch.nan)
    return net


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": Silent()}, "expected answers with gradients by the weights from the target, got some without"),
        ({"architectures": {"a": Silent}}, "gradients by the weights from the architecture a, got some without"),
        ({"target": broken()}, "from the target, got NaN or infinity in torch.float32 of shape"),
        (
            {"target": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "batch": 1},
            "expected the target to learn from batches of 1, got Expected more than 1 value per channel",
        ),
        (
            {"test": Part(x=torch.cat([part().x[:25], part(seed=2).x]), y=torch.cat([part().y[:25], part(seed=2).y]))},
            "expected other examples in the part test than in own, got 25 of 40 that are the same",
        ),
        (
            {"spec": replace(REGRESSION, output_shape=(2,)), "own": Part(x=part().x, y=part().x)},
            "reshape it, or correct spec.output_shape",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(changes, message):
    with pytest.raises(UsageError, match=message):
        task(**changes)


def test_the_target_is_no_negative():
    mine = task()
    with pytest.raises(UsageError, match="expected a negative that is independent of the target, got it as other"):
        replace(mine, negatives={"other": deepcopy(mine.target)}).scenario()


class Masked(nn.Module):
    """A network with a buffer that is infinite, as attention's masks are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("mask", torch.full((2, 2), -torch.inf))

    def forward(self, x):
        return self.net(x)


def test_an_infinite_buffer_is_no_failed_training(tmp_path):
    zoo = Zoo(task(target=Masked()).scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    assert zoo.verify() == []


def test_rows_of_a_table_of_few_values_may_come_up_in_several_parts():
    few = {name: (part(200, seed).x > 0).float() for seed, name in enumerate(("own", "public", "test"))}
    task(**{name: Part(x=x, y=x[:, 0].long()) for name, x in few.items()})


def test_a_target_of_rare_classes_has_learnt_what_a_constant_has_not(tmp_path):
    x = part(600, 5).x
    rare = Part(x=x, y=(x[:, 0] > 0.9).long())
    target = network()
    with torch.no_grad():  # it calls more of the common class rare than there are rare ones
        for parameter in target.parameters():
            parameter.zero_()
        target[0].weight[0, 0], target[2].weight[1, 0], target[2].bias[0] = 10.0, 1.0, 6.0
    zoo = built(task(target=target, own=rare, public=part(seed=6), test=Part(x=-rare.x, y=rare.y.flip(0))), tmp_path)
    assert flaws._skill(zoo.load("target"), rare, rare) > 0.5
    assert (zoo.load("target")(x).argmax(1) == rare.y).float().mean() < (rare.y == 0).float().mean()


def test_a_target_whose_architecture_is_listed_is_not_said_to_lack_new_models():
    assert "no new models" in task(target=Fixed(), architectures={"other": network}).scenario().data
    assert "no new models" not in task(target=Fixed(), architectures={"mine": Fixed}).scenario().data


def test_classifiers_that_are_perceptrons_learn_side_by_side_and_end_as_one_by_one(tmp_path, monkeypatch):
    scenario = task(tuning=2, epochs=3, students=3, independents=4, teachers=3).scenario()
    together = Zoo(scenario, tmp_path / "together", cohort=True)
    alone = Zoo(replace(scenario, group=1), tmp_path / "alone", cohort=True)
    sizes, usual_way = [], training._fit_side_by_side
    monkeypatch.setattr(training, "_fit_side_by_side", lambda *given: (sizes.append(len(given[0])), usual_way(*given)))
    for zoo in (alone, together):
        assert not sizes
        zoo.build(jobs=1)
    assert max(sizes) == 4
    for lineage in together.lineages():
        other = alone.load(lineage).state_dict()
        for name, value in together.load(lineage).state_dict().items():
            torch.testing.assert_close(value, other[name], atol=2e-5, rtol=1e-4)


def two_axes(rows: int, seed: int) -> Part:
    x = part(rows, seed).x[:, None].expand(rows, 4, 3).contiguous()
    return Part(x=x, y=x[..., :2].contiguous())


@pytest.mark.parametrize(
    "changes",
    [
        {"target": nn.Sequential(network(), nn.Softmax(-1)), "logits": False},
        {
            "spec": replace(REGRESSION, input_shape=(4, 3), output_shape=(4, 2)),
            **{name: two_axes(40, seed) for seed, name in enumerate(("own", "public", "test"))},
        },
    ],
    ids=["probabilities", "two axes"],
)
def test_what_cannot_learn_side_by_side_learns_one_by_one(changes, tmp_path):
    mine = task(**changes)
    assert mine.scenario().group == 1
    assert built(mine, tmp_path).has("target")


def test_much_data_of_which_copies_would_take_gigabytes_is_learnt_one_by_one():
    assert task(public=part(2**20, seed=1)).scenario().group == 1


def test_losses_that_see_something_else_than_logits_see_it_of_models_that_learn_together_too():
    def brier(answers, classes):
        return (answers - nn.functional.one_hot(classes, 2)).square().sum(-1)

    objective = training.Objective(loss=brier, imitation=partial(training.anneal, brier))
    zoo = Zoo(task(students=0).scenario())
    lineages = [f"same(own,2ep,lr=0.01,batch=8,seed={seed})" for seed in range(3)]

    def drafts():
        return [zoo.scenario.lineage(text).step.draft(None, zoo.scenario.fresh) for text in lineages]

    together, alone = drafts(), drafts()
    usual(together, zoo.scenario.parts, objective)
    for left, right in zip(together, alone, strict=True):
        usual([right], zoo.scenario.parts, objective)
        for value, other in zip(left.model.parameters(), right.model.parameters(), strict=True):
            torch.testing.assert_close(value, other)
