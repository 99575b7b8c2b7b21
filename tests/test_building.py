"""Building a zoo of one's own models: architectures of all kinds, what fails in one sentence, what a kill may cost."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from metav import Part, Spec, Task, engine
from metav.errors import MetavError
from metav.scenarios import Merit
from metav.zoo import Zoo

SPEC = Spec(input_shape=(3,), output_shape=(2,), low=-1.0, high=1.0, output="regression")


def network(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


class Dropping(nn.Module):
    """As many networks have it: rates from a tensor, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.net = network()
        self.register_buffer("scale", torch.tensor([0.5, 2.0]), persistent=False)

    def forward(self, x):
        return self.net(x) * self.scale + self.rates[0]


def task(rows: int = 40, **changes) -> Task:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name in ("own", "public", "test"):
        x = 2 * torch.rand(rows, 3, generator=generator) - 1
        parts[name] = Part(x=x, y=x[:, :2].contiguous())
    torch.manual_seed(0)
    return Task(**{"name": "mine", "target": network(), "spec": SPEC, "epochs": 2, **parts, **changes})


def test_constructors_that_want_values_are_built_and_read(tmp_path):
    zoo = Zoo(task(architectures={"net": Dropping}).scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    x = zoo.scenario.parts["test"].x
    found = {text: zoo.load(text)(x) for text in zoo.lineages() if zoo.scenario.lineage(text).architecture == "net"}
    assert found
    for text, answers in found.items():
        assert zoo.scenario.quality(zoo.load(text), zoo.load("target"), zoo.scenario.parts["test"]) == pytest.approx(
            zoo.record(text).quality
        )
        assert answers.isfinite().all()


def judged(model, target, test, value=1.0):
    return {"loss": value if isinstance(value, str) else np.float32(value)}


def failing(drafts, parts):
    raise ValueError("no way")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 1e30}, "expected finite weights of .*lower the learning rate"),
        ({"fit": failing}, "expected to train .*got ValueError .no way"),
        (
            {"quality": partial(judged, value="much"), "merit": Merit(name="loss", more=True)},
            "got ValueError .could not",
        ),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_is_told_in_one_sentence(changes, words, jobs, tmp_path):
    zoo = Zoo(task(**changes).scenario("smoke"), tmp_path / "zoo")
    with pytest.raises(MetavError, match=words) as caught:
        zoo.build(jobs=jobs)
    assert "\n" not in str(caught.value)


def test_figures_of_any_kind_of_number_are_kept(tmp_path):
    mine = task(quality=judged, merit=Merit(name="loss", more=True))
    zoo = Zoo(mine.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    assert zoo.record("target").quality == {"loss": 1.0}


def test_models_that_train_one_by_one_are_written_one_by_one():
    assert task().scenario().group > 1
    assert task(architectures={"net": normed}).scenario().group == 1


def test_snapshots_leave_what_is_there_as_it_is(tmp_path):
    scenario = task(epochs=10).scenario()
    Zoo(scenario, tmp_path / "zoo").build()
    before = {path.name: path.read_bytes() for path in (tmp_path / "zoo").glob("*.safetensors")}
    usual = scenario.fit

    def elsewhere(drafts, parts):
        """The same training on a processor that rounds differently."""
        usual(drafts, parts)
        for draft in drafts:
            for name, parameter in draft.model.named_parameters():
                parameter.data += 1e-6 * (name in draft.trainable)

    other = Zoo(replace(scenario, fit=elsewhere), tmp_path / "zoo", snapshots=(0.5,))
    other.build(jobs=1)
    assert all(other.whole(text) for text in other.lineages())
    assert any(other.snapshots(text) for text in other.lineages())
    assert before.items() <= {path.name: path.read_bytes() for path in (tmp_path / "zoo").glob("*.safetensors")}.items()


@pytest.mark.parametrize("tail", ["squeezed(0.5)>wp(0.3)", "rounded(0.1)>quantise(8)", "wp(0.3)>squeezed(0.5)"])
def test_what_is_done_to_a_model_behind_a_facade_can_be_read(tail, tmp_path):
    scenario = task().scenario("smoke")
    suspect = replace(scenario.suspects[0], lineage=f"target>{tail}")
    zoo = Zoo(replace(scenario, suspects=(suspect,)), tmp_path / "zoo")
    zoo.build(jobs=1)
    assert zoo.load(suspect.lineage)(zoo.scenario.parts["test"].x).shape == (40, 2)
    assert zoo.verify() == []


def test_models_are_trained_where_the_device_is_and_kept_on_the_cpu(tmp_path, monkeypatch):
    """On a device without values, as there may be no other here: shapes are learnt from there, and nothing else."""
    there = torch.device("meta")
    scenario, met = task().scenario("smoke"), []
    scenario = replace(scenario, suspects=tuple(s for s in scenario.suspects if "ll(" not in s.lineage))  # learn whole

    def learn(drafts, parts):
        met.extend(
            tensor.device
            for draft in drafts
            for tensor in (*draft.model.parameters(), *(draft.teacher.parameters() if draft.teacher else ()))
        )
        met.extend(tensor.device for part in parts.values() for tensor in (part.x, part.y))
        for draft in drafts:
            draft.model, draft.teacher = network(), None

    monkeypatch.setattr(engine, "device", lambda: there)
    zoo = Zoo(replace(scenario, fit=learn), tmp_path / "zoo")
    zoo.build(jobs=1)
    assert set(met) == {there}
    assert {each.device.type for each in zoo.load("target").parameters()} == {"cpu"}
