"""A user's own model: from a module of theirs to a zoo, a fingerprint and a verdict."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from metav import Fingerprint, Part, benchmark, flaws, protocols, verify
from metav.scenarios.base import Merit
from metav.scenarios.quality import accuracy, error
from metav.scenarios.task_models import ready
from metav.storage import digest
from metav.zoo import Zoo
from own_task import EXAMPLES, SPEC, network, part, task


class InPlace(nn.Module):
    """A network that standardises what it is given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(x.sub_(0.5).div_(0.25))


def test_the_example_of_a_table_goes_from_a_module_to_a_verdict(command, tmp_path):
    command("fingerprint", "tumours:task", "--out", "tumours.safetensors")
    assert "target>distill(public,60ep" in command("zoo", "list", "tumours:task")
    subprocess.run([sys.executable, EXAMPLES / "tumours.py"], cwd=tmp_path, check=True, capture_output=True)
    assert ": evidence of copying" in command("verify", "tumours.safetensors", "stolen.onnx", code=10)
    (tmp_path / "others.csv").write_text("suspect\nstranger.onnx\ntwin.onnx\nuntrained.onnx\n")
    command("verify", "tumours.safetensors", "--suspects", "others.csv", "--out", "verdicts.csv", code=10)
    verdicts = pd.read_csv(tmp_path / "verdicts.csv", index_col="suspect").verdict
    assert verdicts["stranger.onnx"] == verdicts["twin.onnx"] == "no evidence of copying"
    assert verdicts["untrained.onnx"] == "evidence of copying"  # as README says
    made = Fingerprint.load(tmp_path / "tumours.safetensors")
    assert made.provenance["scenario"] == "tumours"
    assert made.reference is not None


def test_the_example_of_a_torchvision_model_is_built_and_benched(command, tmp_path):
    quick = ("--scheme", "metav(iterations=10)")
    command("fingerprint", "digits:task", "--profile", "smoke", "--queries", "5", "--out", "digits.safetensors", *quick)
    assert len(Fingerprint.load(tmp_path / "digits.safetensors").queries) == 5


@pytest.mark.parametrize("order", ["sorted", "in turn"])
def test_the_smallest_profile_learns_from_a_few_examples_of_each_kind(order):
    y = torch.arange(1000) // 500 if order == "sorted" else torch.arange(1000) % 2
    many = Part(x=(2 * y[:, None] - 1.0).expand(-1, 3), y=y)
    few = task(own=many).scenario("smoke").parts["own"]
    assert len(few.x) == len(few.y) == 256
    assert few.y.bincount().min() > 100
    assert torch.equal(few.x[:, 0] > 0, few.y > 0)
    assert torch.equal(task(own=many).scenario("smoke").parts["own"].y, few.y)
    assert len(task(own=many).scenario().parts["own"].x) == 1000
    assert len(task(own=few).scenario("smoke").parts["own"].x) == 256


def test_the_target_of_the_zoo_is_the_model_given_and_others_of_its_kind_are_not(tmp_path):
    mine = task()
    zoo = Zoo(mine.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    x = mine.test.x
    assert torch.equal(zoo.load("target")(x), torch.softmax(mine.target(x), 1))
    assert verify(quick_fingerprint(zoo), zoo.load("target")).queries == 4
    independents = [s.lineage for s in zoo.scenario.suspects if not s.positive]
    assert len(independents) == 2 * len({s.family for s in zoo.scenario.suspects if not s.positive})
    for lineage in independents:
        assert not torch.allclose(zoo.load(lineage)(x), zoo.load("target")(x), atol=0.05)


def quick_fingerprint(zoo: Zoo) -> Fingerprint:
    return benchmark.construct(zoo, "metav(iterations=5)", zoo.scenario.suspects, queries=4, seed=0)


def test_models_that_answer_with_probabilities_and_ready_negatives_are_taken(tmp_path):
    with_softmax = nn.Sequential(network(), nn.Softmax(1))
    stranger = nn.Sequential(network(5), nn.Softmax(1))
    mine = task(target=with_softmax, logits=False, negatives={"stranger": stranger})
    zoo = Zoo(mine.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    x = mine.test.x
    torch.testing.assert_close(zoo.load("target")(x), with_softmax(x))
    torch.testing.assert_close(zoo.load("ready(stranger)")(x), stranger(x))


def test_a_regression_is_trained_on_its_values(tmp_path):
    doses = {name: part(seed=seed, doses=True) for seed, name in enumerate(("own", "public", "test"))}
    mine = task(spec=replace(SPEC, output="regression"), **doses, epochs=200, lr=0.01, tuning=1)
    scenario = mine.scenario()
    lineage = next(s.lineage for s in scenario.suspects if not s.positive)
    draft = scenario.lineage(lineage).step.draft(None, scenario.fresh)
    before = scenario.quality(draft.model, mine.target, mine.test)["mae"]
    scenario.fit([draft], scenario.parts)
    assert scenario.quality(draft.model, mine.target, mine.test)["mae"] < 0.2 * before


def exported(model: nn.Module, path: Path) -> Path:
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model.eval(), (torch.zeros(2, 3),), path, dynamo=True, dynamic_shapes=sizes, verbose=False)
    return path


@pytest.mark.parametrize("opset", [18, 20])
def test_an_onnx_file_of_convolutions_is_taken(opset, tmp_path):
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    net = nn.Sequential(*layers).eval()
    x, path = torch.rand(5, 3, 14, 14), tmp_path / "net.onnx"
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(net, (x[:2],), path, opset_version=opset, dynamo=True, dynamic_shapes=sizes, verbose=False)
    torch.testing.assert_close(ready(path)(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("doses", [False, True], ids=["classes", "doses"])
def test_models_that_change_their_inputs_leave_the_data_and_the_queries_as_they_were(tmp_path, doses):
    parts = {name: part(seed=seed, doses=doses) for seed, name in enumerate(("own", "public", "test"))}
    before = {name: each.x.clone() for name, each in parts.items()}
    spec = replace(SPEC, output="regression") if doses else SPEC
    mine = task(
        target=InPlace(), spec=spec, **parts, architectures={"own": InPlace}, students=1, independents=2,
        negatives={"stranger": InPlace()},
    )  # fmt: skip
    zoo = Zoo(mine.scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    mine.scenario().quality(zoo.load("target"), zoo.load("target"), mine.test)
    made = benchmark.construct(zoo, "metav(iterations=20)", zoo.scenario.suspects, queries=8, seed=0)
    assert all(torch.equal(each.x, before[name]) for name, each in parts.items())
    assert made.spec.inside(made.queries)
    assert verify(made, zoo.load("target")).rate == pytest.approx(made.score(made.reference), abs=1e-5)


def fit_in_train_mode(drafts, parts):
    """As people write it: nothing is put back into eval mode."""
    for draft in drafts:
        if draft.training is not None:
            draft.model.train()
            for name, parameter in draft.model.named_parameters():
                parameter.requires_grad_(name in draft.trainable)
            optimiser = torch.optim.Adam([each for each in draft.model.parameters() if each.requires_grad], 0.01)
            data = parts[draft.training.data]
            for _ in range(5):
                optimiser.zero_grad()
                nn.functional.cross_entropy(draft.model.logits(data.x), data.y).backward()
                optimiser.step()


def test_a_fit_that_ends_in_train_mode_is_recorded_as_it_is_loaded(tmp_path):
    def net():
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    mine = task(target=net(), architectures={"net": net}, students=1, independents=2, fit=fit_in_train_mode)
    zoo = Zoo(mine.scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    target = zoo.load("target")
    for suspect in zoo.scenario.suspects:
        model = zoo.load(suspect.lineage)
        again = zoo.scenario.quality(model, target, mine.test)
        assert zoo.record(suspect.lineage).quality == pytest.approx(again)


class Scaled(nn.Module):
    """A regression whose answers are far from 1 in size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.net, self.size = network(16), size

    def forward(self, x):
        return self.size * self.net(x)


@pytest.mark.parametrize(("size", "flawed"), [(1.0, False), (1e-4, True)])
def test_a_fingerprint_that_accuses_what_it_was_made_from_is_said_to_be_flawed(tmp_path, monkeypatch, size, flawed):
    parts = {name: part(200, seed, doses=True) for seed, name in enumerate(("own", "public", "test"))}
    parts = {name: Part(x=each.x, y=size * each.y) for name, each in parts.items()}
    torch.manual_seed(0)
    mine = task(
        target=Scaled(size), spec=replace(SPEC, output="regression"), **parts,
        architectures={"own": partial(Scaled, size)}, epochs=20, independents=4, students=1,
    )  # fmt: skip
    zoo = Zoo(mine.scenario(), tmp_path)
    zoo.build(jobs=1)
    made = benchmark.construct(zoo, "metav(iterations=200)", zoo.scenario.suspects, queries=20, seed=0)
    monkeypatch.setattr(flaws, "_unlearnt", lambda _: "")  # this target has not
    said = flaws.flaw(zoo, made)
    assert bool(said) == flawed, said


def test_describing_a_task_leaves_the_target_in_its_mode():
    net = nn.Sequential(network(), nn.Dropout())
    for training in (True, False):
        task(target=net.train(training)).scenario()
        assert [module.training for module in net.modules()] == [training] * 6


@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "probabilities"])
def test_negatives_may_be_onnx_files_and_answer_with_logits_or_probabilities(softmax, tmp_path):
    torch.manual_seed(5)
    stranger = network(5)
    file = exported(nn.Sequential(stranger, nn.Softmax(1)) if softmax else stranger, tmp_path / "stranger.onnx")
    mine = task(negatives={"stranger": file})
    zoo = Zoo(mine.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    negative = zoo.load("ready(stranger)")
    torch.testing.assert_close(negative(mine.test.x), stranger(mine.test.x).softmax(1), atol=1e-5, rtol=1e-4)
    x = mine.test.x[:3].clone().requires_grad_(True)
    slopes = [
        torch.autograd.grad(model(x)[:, 0].sum(), x)[0] for model in (negative, nn.Sequential(stranger, nn.Softmax(1)))
    ]
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-3)
    assert quick_fingerprint(zoo).provenance["scheme"] == "metav"


def test_a_task_leaves_its_target_as_it_is():
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before = digest(target.state_dict(), {})
    task(target=target, quality=accuracy, merit=Merit(name="accuracy", more=True)).scenario()
    assert digest(target.state_dict(), {}) == before


def test_a_ready_negative_is_no_architecture_to_leave_out():
    made = task(architectures={"wide": lambda: network(16)}, negatives={"other": network()}).scenario("cpu")
    assert protocols.what_is_left_out(made, "unseen-architecture") == ["same", "wide"]
    protocols.check_enough(made, "unseen-architecture", [0], 1)


def regression(folder: Path, *axes: int) -> Zoo:
    """A small zoo with a cohort, of models that answer with two numbers in an array of these axes."""
    found = [part(seed=seed, doses=True) for seed in range(3)]
    parts = {
        name: Part(x=each.x, y=each.y.view(-1, *axes))
        for name, each in zip(("own", "public", "test"), found, strict=True)
    }
    torch.manual_seed(0)
    target = nn.Sequential(network(), nn.Unflatten(1, axes))
    spec = replace(SPEC, output="regression", output_shape=axes)
    zoo = Zoo(task(spec=spec, target=target, teachers=5, **parts).scenario("smoke"), folder, cohort=True)
    zoo.build(jobs=1)
    return zoo


def test_a_regression_may_have_several_axes(tmp_path):
    flat, deep = regression(tmp_path / "flat", 2), regression(tmp_path / "deep", 2, 1)
    x = part().x
    for lineage in flat.lineages():
        assert torch.allclose(flat.load(lineage)(x), deep.load(lineage)(x)[..., 0], atol=1e-4), lineage
    rates = []
    for zoo in (flat, deep):
        made = benchmark.construct(zoo, "cohort(level=0.2,real=10,pool=10)", zoo.scenario.suspects, queries=4, seed=0)
        rates.append(verify(made, zoo.load("target")).rate)
    assert rates[0] == pytest.approx(rates[1], abs=1e-2)


def test_agreement_of_several_values_is_by_the_spread_of_each():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    target = lambda given: given * torch.tensor([1.0, 0.01, 5000.0])  # noqa: E731
    still = lambda given: torch.zeros(len(given), 3)  # noqa: E731
    part = Part(x=x, y=target(x))
    assert error(target, target, part)["agreement"] == 1
    assert error(still, target, part)["agreement"] < 0.15  # of normal values 8 % are within a tenth
