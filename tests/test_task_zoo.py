"""What the zoo of an own task holds, what makes it another zoo, and its cohort."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from metav import Part, Spec, Task, benchmark, verify
from metav.errors import UsageError
from metav.scenarios.task_cohort import filter_ratio
from metav.storage import digest
from metav.zoo import Zoo
from own_task import network, task


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class Grid(nn.Linear):
    """A layer whose new weights are computed from values."""

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.linspace(-1, 1, self.weight.numel()).view_as(self.weight))
            self.bias.zero_()


def pruned(mine: Task) -> list[str]:
    """Digests of the target and of all that is pruned of it and not tuned."""
    found = []
    for suspect in mine.scenario().suspects:
        parts = suspect.lineage.split(">")
        if len(parts) == 2 and parts[1].startswith(("wp", "fp")):
            step = mine.scenario().lineage(suspect.lineage).step
            found.append(digest(step.draft(mine.target, None).model.state_dict(), {}))
    return [digest(mine.target.state_dict(), {}), *found]


IMAGES = Spec(input_shape=(1, 6, 6), output_shape=(2,), low=-1.0, high=1.0, output="probabilities")


@pytest.mark.parametrize("channels", [2, 4, 6, 12])
def test_nothing_is_there_twice_of_narrow_layers(channels):
    shown = {
        name: Part(x=2 * torch.rand(10, 1, 6, 6) - 1, y=torch.arange(10) % 2) for name in ("own", "public", "test")
    }
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, channels, 3), nn.Flatten(), nn.Linear(16 * channels, 2))
    found = pruned(task(target=net, spec=IMAGES, **shown))
    assert len(set(found)) == len(found) > 10


def test_nothing_is_there_twice_of_a_single_layer():
    mine = task(target=nn.Linear(3, 2))
    found = pruned(mine)
    assert len(set(found)) == len(found)
    families = {each.family for each in mine.scenario().suspects}
    assert {"FTAL", "RTAL"} <= families
    assert not {"FTLL", "RTLL"} & families


def test_an_architecture_that_is_the_target_s_own_is_there_once():
    mine = task(architectures={"mine": network, "wide": partial(network, 16)}, teachers=3)
    families = {suspect.family for suspect in mine.scenario().suspects}
    assert {"Independent mine", "Independent wide", "Distillation mine"} <= families
    assert not {"Independent same", "Distillation same"} & families
    assert "student mine" in mine.scenario().cohort.kinds
    assert "student same" not in mine.scenario().cohort.kinds
    with pytest.raises(UsageError, match="architectures that differ, got the same weights from mine and twin: leave"):
        task(architectures={"mine": network, "twin": network})


class Constant(nn.Module):
    """A network with the mean of its inputs in a buffer, and a slope that is neither weight nor buffer."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.net, self.slope = network(), slope

    def forward(self, x):
        return self.net(nn.functional.leaky_relu(x - self.mean, self.slope))


class Bare(nn.Module):
    """A network with a parameter that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.net = nn.Parameter(torch.ones(3)), network()

    def forward(self, x):
        return self.net(x * self.scale)


class Last(nn.Module):
    """A last layer that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2))

    def forward(self, x):
        return x @ self.weight


def test_a_target_whose_weights_cannot_be_drawn_anew_is_said_to_lack_its_twins():
    constant = task(target=Constant(), architectures={"wide": partial(network, 16)}).scenario()
    assert "Independent same" in {suspect.family for suspect in constant.suspects}
    assert constant.fresh("same", 1).net.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert constant.data == "the task mine"
    bare = task(target=Bare(), architectures={"wide": partial(network, 16)}).scenario()
    assert "Independent same" not in {suspect.family for suspect in bare.suspects}
    assert bare.data.endswith("no new models of the target's architecture, as Bare has no reset_parameters")


def test_a_target_is_retrained_where_its_last_layer_can_be_drawn_anew():
    for target, rows in ((nn.Sequential(network(), nn.ReLU(), Last()), set()), (network(), {"RTLL", "RTAL"})):
        suspects = task(target=target, architectures={"wide": partial(network, 16)}).scenario().suspects
        assert {each.family for each in suspects if each.family.startswith("RT")} == rows


def test_a_cohort_of_one_layer_holds_no_theft_twice():
    found = task(target=nn.Linear(3, 2), teachers=3).scenario().cohort
    assert found is not None
    assert [kind for kind in found.kinds if kind[2:] in ("LL", "AL")] == ["FTAL", "RTAL"]


def orthogonal() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 2))
    nn.init.orthogonal_(made[2].weight)
    return made


def test_a_task_is_the_same_on_any_number_of_threads():
    methods = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        methods.add(task(architectures={"orthogonal": orthogonal}).scenario().method)
    torch.set_num_threads(1)
    assert len(methods) == 1


def test_a_setting_of_a_module_that_is_no_weight_makes_another_zoo():
    torch.manual_seed(0)
    net = Constant()
    other = deepcopy(net)
    other.slope = -1.0
    assert task(target=net).scenario().settings == task(target=deepcopy(net)).scenario().settings
    assert task(target=net).scenario().settings != task(target=other).scenario().settings


class Zero(nn.Module):
    """A network whose last layer starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(self.body(x).relu())


def test_weights_that_start_at_zero_learn_from_scratch_and_as_students(tmp_path):
    mine = task(architectures={"zero": Zero}, students=1, independents=2)
    zoo = Zoo(mine.scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    of_it = [suspect.lineage for suspect in zoo.scenario.suspects if "zero" in suspect.lineage]
    assert any("distill" in lineage for lineage in of_it)
    assert any("distill" not in lineage for lineage in of_it)
    assert all((zoo.load(lineage).net.head.weight != 0).any() for lineage in of_it)


def test_another_target_is_another_zoo():
    assert task().scenario().settings == task().scenario().settings
    torch.manual_seed(1)
    assert task(target=network()).scenario().settings != task().scenario().settings


def test_a_task_with_teachers_has_a_cohort(tmp_path):
    """None of its thefts is a suspect, and the scheme can be used from the zoo to a verdict."""
    mine = task(teachers=24, architectures={"net": partial(network, 4)}, epochs=20).scenario()
    suspects = {mine.lineage(each.lineage).text for each in mine.suspects}
    plan = mine.cohort
    assert plan.teachers == 24
    teachers = plan.lineages("as it is")[:24]
    assert {mine.lineage(text).architecture for text in teachers} == {"same"}
    assert not suspects & {mine.lineage(text).text for text in plan.all()}
    zoo = Zoo(mine, tmp_path, cohort=True)
    zoo.build(jobs=1)
    found = benchmark.construct(zoo, "cohort(level=0.1)", mine.suspects, queries=30, seed=0)
    assert found.provenance["teachers"] == 24
    assert verify(found, zoo.load("target")).derived
    assert not any(verify(found, zoo.load(each)).derived for each in teachers)


def bent() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


class Squared(nn.Module):
    """The same layers as `Cubed`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x**2)

    def _get_name(self) -> str:
        return "Net"


class Cubed(Squared):
    """The same layers as `Squared`."""

    def forward(self, x):
        return self.net(x**3)


def fit_once(drafts, parts, more: int = 0) -> None:
    """Train nothing."""


def fit_twice(drafts, parts) -> None:
    """Train nothing, twice."""


def fit_with(epochs):
    def fit(drafts, parts) -> None:
        assert epochs

    return fit


class Trainer:
    """Trains nothing, several times."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def fit(self, drafts, parts) -> None:
        """Train nothing."""


def test_other_architectures_training_or_answers_are_another_zoo():
    one = {"architectures": {"net": network}}
    variants = [
        one,
        {"architectures": {"net": bent}},
        {"architectures": {"net": Squared}},
        {"architectures": {"net": Cubed}},
        {**one, "fit": fit_once},
        {**one, "fit": fit_twice},
        {**one, "fit": partial(fit_once, more=1)},
        {**one, "fit": partial(fit_once, more=2)},
        {**one, "fit": fit_with(1)},
        {**one, "fit": fit_with(2)},
        {**one, "fit": Trainer(1).fit},
        {**one, "fit": Trainer(2).fit},
        {**one, "fit": fit_with(fit_once)},
        {**one, "fit": fit_with(fit_twice)},
        {**one, "negatives": {"stranger": network()}},
    ]
    there, elsewhere = ({**one, "fit": partial(fit_once, more=object())} for _ in range(2))  # at two addresses
    assert task(**there).scenario().settings == task(**elsewhere).scenario().settings
    tanh = bent()
    tanh.load_state_dict(variants[-1]["negatives"]["stranger"].state_dict())
    variants.append({**one, "negatives": {"stranger": tanh}})
    assert task(**one).scenario().settings == task(**one).scenario().settings
    methods = [task(**each).scenario().settings["method"] for each in variants]
    assert len(set(methods)) == len(methods)


def test_a_task_is_the_same_in_each_process_and_after_a_training():
    trainer = Trainer(1)
    before = task(fit=trainer.fit).scenario().settings
    trainer.losses = [0.3]
    assert task(fit=trainer.fit).scenario().settings == before
    told = "import test_task_zoo as t; print(t.task(fit=t.fit_with({'conv', 'norm', 'head'})).scenario().settings)"
    settings = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        settings.add(
            subprocess.run([sys.executable, "-c", told], env=environment, check=True, capture_output=True).stdout
        )
    assert len(settings) == 1


def test_layers_that_share_a_weight_share_it_in_every_suspect(tmp_path):
    zoo = Zoo(task(target=Tied()).scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    tuned = next(each for each in zoo.lineages() if each.startswith("target>ftal("))
    for lineage in ("target", tuned):
        model = zoo.load(lineage)
        assert model.get_parameter("net.first.weight") is model.get_parameter("net.second.weight")
        assert zoo.record(lineage).parameters == sum(each.numel() for each in Tied().parameters())


def test_the_targets_architecture_may_compute_its_new_weights():
    make = task(target=nn.Sequential(Grid(3, 8), nn.ReLU(), nn.Linear(8, 2))).scenario("smoke").constructor("same")
    with torch.device("meta"):
        assert not next(make().parameters()).is_meta


@pytest.mark.parametrize(("filters", "ratio"), [(64, 0.3), (8, 0.6), (2, None)])
def test_a_cohort_prunes_other_filters_than_the_suspects(filters, ratio):
    target = nn.Sequential(nn.Conv2d(3, filters, 3), nn.Flatten(), nn.Linear(filters, 2))
    assert filter_ratio(target, (0.125, 0.25, 0.375, 0.5)) == ratio
