"""Own tasks of images: generators, and files of convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metav import Part, Spec, Task
from metav.errors import UsageError
from metav.zoo import Zoo
from own_task import codes, painter, task


@pytest.fixture
def images():
    """A task of images whose target was trained as metav trains generators."""
    parts = {name: codes(seed=seed) for seed, name in enumerate(("own", "public", "test"))}
    spec = Spec(input_shape=(3,), output_shape=(1, 12, 12), low=-1.0, high=1.0, output="images")

    def made(target: nn.Module) -> Task:
        settings = {"epochs": 60, "lr": 0.002, "tuning": 2, "independents": 4}
        return task(spec=spec, target=target, architectures={"wide": lambda: painter(64)}, **settings, **parts)

    torch.manual_seed(0)
    scenario = made(painter()).scenario()
    draft = scenario.lineage("wide(own,60ep,lr=0.002,batch=32,seed=7)").step.draft(None, scenario.fresh)
    scenario.fit([draft], scenario.parts)
    return made(draft.model.generator)


def test_a_generator_needs_no_training_function_of_its_users(images, tmp_path):
    scenario = images.scenario()
    target, test = images.target, images.test
    quality = scenario.quality
    fresh = quality(painter(), target, test)
    assert quality(target, target, test)["agreement"] == 1
    assert quality(target, target, test)["frechet"] < 0.7 * fresh["frechet"]
    zoo = Zoo(images.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    student = next(s.lineage for s in scenario.suspects if s.family == "Distillation wide")
    teacher = zoo.load("target")
    draft = scenario.lineage(student).step.draft(teacher, scenario.fresh)
    scenario.fit([draft], scenario.parts)
    stranger = next(s.lineage for s in scenario.suspects if not s.positive)
    other = scenario.lineage(stranger).step.draft(None, scenario.fresh)
    scenario.fit([other], scenario.parts)
    alike = [quality(each.model, target, test)["agreement"] for each in (draft, other)]
    assert alike[0] > 0.5 > alike[1]
    for suspect in zoo.scenario.suspects:
        assert zoo.load(suspect.lineage)(test.x[:2]).shape == (2, 1, 12, 12)


def test_a_generator_with_batch_norm_meets_no_batch_of_one(tmp_path):
    target = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), *painter(8)[2:])
    parts = {"own": codes(33), "public": codes(33, 1), "test": codes(33, 2)}
    spec = Spec(input_shape=(3,), output_shape=(1, 12, 12), low=-1.0, high=1.0, output="images")
    zoo = Zoo(task(target=target, spec=spec, batch=32, independents=2, **parts).scenario("smoke"), tmp_path)
    assert zoo.build(jobs=1) == len(zoo.lineages())


@pytest.mark.parametrize(
    "change",
    [lambda y: 255 * y, lambda y: y.double(), lambda y: (255 * y).to(torch.uint8), lambda y: y * float("nan")],
    ids=["0..255", "float64", "uint8", "NaN"],
)
def test_images_that_are_not_float32_in_0_to_1(change):
    good = codes()
    spec = Spec(input_shape=(3,), output_shape=(1, 12, 12), low=-1.0, high=1.0, output="images")
    parts = {"own": good, "public": Part(x=good.x, y=change(good.y)), "test": good}
    with pytest.raises(UsageError, match=r"(images in \[0, 1\]|float32 y|finite y) in the part public"):
        task(spec=spec, target=painter(), **parts)


def test_the_owner_of_a_classifier_of_images_hears_of_the_better_variant(command, tmp_path):
    (tmp_path / "lamps.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from metav import Part, Spec, Task\n"
        "torch.manual_seed(0)\n"
        "def part():\n"
        "    x = torch.rand(40, 1, 4, 4)\n"
        "    return Part(x=x, y=(x.mean((1, 2, 3)) > 0.5).long())\n"
        "def task():\n"
        "    target = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))\n"
        "    spec = Spec(input_shape=(1, 4, 4), output_shape=(2,), low=0.0, high=1.0, output='probabilities')\n"
        "    return Task(name='lamps', target=target, spec=spec, own=part(), public=part(), test=part(), epochs=2)\n"
    )
    made = ("fingerprint", "lamps:task", "--profile", "smoke", "--queries", "5", "--out", "lamps.safetensors")
    hint = "--scheme 'metav(start=data,iterations=300,lr=0.003)' was better than metav alone"
    assert hint in command(*made)
    assert hint not in command(*made, "--scheme", "metav(start=data,iterations=3)")
