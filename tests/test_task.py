"""A user's own model: from a module of theirs to a zoo, a fingerprint and a verdict; and what does not fit together."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils import parametrizations

from metav import Fingerprint, Part, Spec, Task, benchmark, flaws, protocols, scenarios, verify
from metav.cli import main
from metav.errors import MetavError, StorageError, UsageError
from metav.scenarios.base import Merit
from metav.scenarios.quality import accuracy, error
from metav.scenarios.task_cohort import filter_ratio
from metav.scenarios.task_models import ready
from metav.storage import digest
from metav.zoo import Zoo

EXAMPLES = Path(__file__).parent.parent / "examples"
SPEC = Spec(input_shape=(3,), output_shape=(2,), low=-1.0, high=1.0, output="probabilities")


def part(rows: int = 40, seed: int = 0, *, doses: bool = False) -> Part:
    x = 2 * torch.rand(rows, 3, generator=torch.Generator().manual_seed(seed)) - 1
    return Part(x=x, y=x[:, :2].contiguous() if doses else (x[:, 0] > 0).long())


def codes(count: int = 60, seed: int = 0) -> Part:
    """Codes of a generator, and images that have nothing to do with them: bright squares on a dark ground."""
    x = part(count, seed).x
    y, places = (
        torch.zeros(count, 1, 12, 12),
        torch.randint(6, (count, 2), generator=torch.Generator().manual_seed(seed)),
    )
    for image, (row, column) in zip(y, places.tolist(), strict=True):
        image[:, row : row + 6, column : column + 6] = 1
    return Part(x=x, y=y)


SMALL = {  # a generator of images of a single pixel
    "spec": replace(SPEC, output="images", output_shape=(2, 1, 1)),
    "target": nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1, 1))),
    **{
        name: Part(x=part(seed=seed).x, y=part(seed=seed, doses=True).y.clamp(0, 1)[..., None, None])
        for seed, name in enumerate(("own", "public", "test"))
    },
}


def painter(hidden: int = 32) -> nn.Module:
    layers = (nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 144), nn.Sigmoid(), nn.Unflatten(1, (1, 12, 12)))
    return nn.Sequential(*layers)


class InPlace(nn.Module):
    """A network that standardises what it is given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(x.sub_(0.5).div_(0.25))


class ToDouble(nn.Module):
    """What a scaler's numpy arrays make of answers."""

    def forward(self, x):
        return x.double()


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


def network(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def task(**changes) -> Task:
    torch.manual_seed(0)
    parts = {"own": part(), "public": part(seed=1), "test": part(seed=2)}
    return Task(**{"name": "mine", "target": network(), "spec": SPEC, "epochs": 2, **parts, **changes})


@pytest.fixture
def command(tmp_path):
    """metav, run in the examples' folder as a user does."""

    def run(*arguments: str, code: int = 0) -> str:
        environment = {**os.environ, "METAV_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "metav.cli", *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(EXAMPLES)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_the_example_of_a_table_goes_from_a_module_to_a_verdict(command, tmp_path):
    command("zoo", "build", "tumours:task")
    assert "target>distill(public,60ep" in command("zoo", "list", "tumours:task")
    command("fingerprint", "tumours:task", "--out", "tumours.safetensors")
    subprocess.run([sys.executable, EXAMPLES / "tumours.py"], cwd=tmp_path, check=True, capture_output=True)
    assert ": evidence of copying" in command("verify", "tumours.safetensors", "stolen.onnx", code=10)
    assert ": no evidence of copying" in command("verify", "tumours.safetensors", "stranger.onnx")
    assert ": no evidence of copying" in command("verify", "tumours.safetensors", "twin.onnx")
    assert ": evidence of copying" in command("verify", "tumours.safetensors", "untrained.onnx", code=10)  # README
    made = Fingerprint.load(tmp_path / "tumours.safetensors")
    assert made.provenance["scenario"] == "tumours"
    assert made.reference is not None


def test_the_example_of_a_torchvision_model_is_built_and_benched(command, tmp_path):
    quick = ("--scheme", "metav(iterations=10)")
    command("zoo", "build", "digits:task", "--profile", "smoke")
    command("fingerprint", "digits:task", "--profile", "smoke", "--queries", "5", "--out", "digits.safetensors", *quick)
    assert len(Fingerprint.load(tmp_path / "digits.safetensors").queries) == 5


def test_the_target_of_the_zoo_is_the_model_given_and_others_of_its_kind_are_not(tmp_path):
    mine = task()
    zoo = Zoo(mine.scenario("smoke"), tmp_path / "zoo")
    zoo.build(jobs=1)
    x = mine.test.x
    assert torch.equal(zoo.load("target")(x), torch.softmax(mine.target(x), 1))
    assert verify(replace_queries(zoo), zoo.load("target")).queries == 4
    independents = [s.lineage for s in zoo.scenario.suspects if not s.positive]
    assert len(independents) == 2 * len({s.family for s in zoo.scenario.suspects if not s.positive})
    for lineage in independents:
        assert not torch.allclose(zoo.load(lineage)(x), zoo.load("target")(x), atol=0.05)


def replace_queries(zoo: Zoo) -> Fingerprint:
    from metav import benchmark

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


def exported(model: nn.Module, path: Path) -> Path:
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model.eval(), (torch.zeros(2, 3),), path, dynamo=True, dynamic_shapes=sizes, verbose=False)
    return path


def test_a_generator_with_batch_norm_meets_no_batch_of_one(tmp_path):
    target = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), *painter(8)[2:])
    parts = {"own": codes(33), "public": codes(33, 1), "test": codes(33, 2)}
    spec = Spec(input_shape=(3,), output_shape=(1, 12, 12), low=-1.0, high=1.0, output="images")
    zoo = Zoo(task(target=target, spec=spec, batch=32, independents=2, **parts).scenario("smoke"), tmp_path)
    assert zoo.build(jobs=1) == len(zoo.lineages())


@pytest.mark.parametrize("opset", [18, 20])
def test_an_onnx_file_of_convolutions_is_taken(opset, tmp_path):
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    net = nn.Sequential(*layers).eval()
    x, path = torch.rand(5, 3, 14, 14), tmp_path / "net.onnx"
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(net, (x[:2],), path, opset_version=opset, dynamo=True, dynamic_shapes=sizes, verbose=False)
    torch.testing.assert_close(ready(path)(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("negative", "words"),
    [
        (nn.Linear(4, 2), "from the negative stranger, got RuntimeError"),
        (nn.Linear(3, 5), r"from the negative stranger, got torch.float32 of shape \(2, 5\)"),
        (nn.LSTM(3, 2), "from the negative stranger, got tuple"),
    ],
)
def test_a_negative_of_another_task(negative, words):
    with pytest.raises(UsageError, match=words):
        task(negatives={"stranger": negative}).scenario()


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


def test_a_target_whose_weights_cannot_be_drawn_anew_is_said_to_lack_its_twins():
    constant = task(target=Constant(), architectures={"wide": partial(network, 16)}).scenario()
    assert "Independent same" in {suspect.family for suspect in constant.suspects}
    assert constant.fresh("same", 1).net.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert constant.data == "the task mine"
    bare = task(target=Bare(), architectures={"wide": partial(network, 16)}).scenario()
    assert "Independent same" not in {suspect.family for suspect in bare.suspects}
    assert bare.data.endswith("no new models of the target's architecture, as Bare has no reset_parameters")


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


def test_weights_that_start_at_zero_learn_from_scratch_and_as_students(tmp_path):
    mine = task(architectures={"zero": Zero}, students=1, independents=2)
    zoo = Zoo(mine.scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    of_it = [suspect.lineage for suspect in zoo.scenario.suspects if "zero" in suspect.lineage]
    assert any("distill" in lineage for lineage in of_it)
    assert any("distill" not in lineage for lineage in of_it)
    assert all((zoo.load(lineage).net.head.weight != 0).any() for lineage in of_it)


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
    assert replace_queries(zoo).provenance["scheme"] == "metav"


def test_a_negative_that_is_no_onnx_file(tmp_path):
    (tmp_path / "page.onnx").write_text("<html>")
    for name in ("page.onnx", "nowhere.onnx"):
        with pytest.raises(
            UsageError, match=f"expected an ONNX file that onnx2torch can convert, got '.*{name}' .*torch module"
        ):
            task(negatives={"stranger": tmp_path / name}).scenario()


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


class Fixed(nn.Module):
    """A layer that cannot be drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        return x @ self.weight.T


def test_a_task_without_teachers_says_so(tmp_path, capsys, monkeypatch):
    with pytest.raises(UsageError, match="expected a target whose layers all have reset_parameters for teachers"):
        task(target=Fixed(), teachers=12)
    for few in (-1, 2):
        with pytest.raises(UsageError, match=rf"^expected 0 or at least 3 teachers, got {few}: change the number\.$"):
            task(teachers=few)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys.modules[__name__], "made", task(), raising=False)
    monkeypatch.setitem(sys.modules, "bare", sys.modules[__name__])
    for command, words in (
        (
            ["zoo", "build", "bare:made", "--cohort"],
            "expected a scenario that plans models for --cohort",
        ),
        (["bench", "bare:made", "--scheme", "cohort"], "expected a scenario with a matched-teacher cohort for cohort"),
        (
            ["bench", "bare:made", "--protocol", "api"],
            "expected a scenario that says what an API may let out",
        ),
    ):
        assert main(command) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "home").exists()


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
    told = "import test_task as t; print(t.task(fit=t.fit_with({'conv', 'norm', 'head'})).scenario().settings)"
    settings = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        settings.add(
            subprocess.run([sys.executable, "-c", told], env=environment, check=True, capture_output=True).stdout
        )
    assert len(settings) == 1


def test_a_task_leaves_its_target_as_it_is():
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before = digest(target.state_dict(), {})
    task(target=target, quality=accuracy, merit=Merit(name="accuracy", more=True)).scenario()
    assert digest(target.state_dict(), {}) == before


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"acc": 0.9}, "expected accuracy among the figures of quality, got acc: rename one of them, or merit"),
        ({"accuracy": 0.9, "seconds": 1.0}, "names of their own, got seconds, which results have too: rename it"),
        ({"accuracy": math.nan}, "expected finite figures of quality of target"),
        ({"accuracy": "high"}, "expected to train target, got ValueError"),
    ],
)
def test_figures_of_quality_that_do_not_fit_are_said_before_anything_is_trained(figures, words, tmp_path):
    scenario = task(quality=lambda *_: figures, merit=Merit(name="accuracy", more=True)).scenario("smoke")
    with pytest.raises(MetavError, match=words):
        Zoo(scenario, tmp_path / "zoo").build(jobs=1)
    assert not list((tmp_path / "zoo").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "my model"}, "expected a word for the name of a task"),
        ({"architectures": {"same": network}}, "leave target, ready and same"),
        ({"own": part(1)}, "at least 2 examples in the part own, got 1: give more"),
        ({"own": Part(x=part().x[:, :2], y=part().y)}, r"inputs of shape \(n, 3\) in the part own, got \(40, 2\)"),
        ({"test": Part(x=part().x.double(), y=part().y)}, r"float32 x in the part test, got torch.float64: .*\.float"),
        ({"own": Part(x=part().x.log(), y=part().y)}, "finite x in the part own, got NaN or infinity"),
        ({"public": Part(x=128 * part().x, y=part().y)}, r"inputs in \[-1, 1\] in the part public, got values in"),
        ({"own": Part(x=part().x, y=part().y.int())}, r"int64 y in the part own, got torch.int32: .*with \.long"),
        (
            {"own": Part(x=part().x, y=part().y + 1)},
            "classes from 0 to 1 in the part own, got 1 to 2: number them from 0",
        ),
        ({"own": Part(x=part().x, y=one_hot(part().y))}, r"y of shape \(40,\) in the part own, .*: take its argmax"),
        ({"own": Part(x=part().x, y=part().y[:, None])}, r"y of shape \(40,\) in the part own, got \(40, 1\)"),
        (
            {"architectures": {"net": lambda: nn.Linear(4, 2)}},
            r"answers of shape \(2, 2\) from the architecture net, got RuntimeError .mat1",
        ),
        ({"architectures": {"net": network()}}, r"a function that makes the architecture net, .*lambda: Sequential"),
        (
            {"target": nn.Sequential(network(), nn.Softmax(1))},
            "logits from the target, got probabilities: say logits=False",
        ),
        ({"logits": False}, "probabilities from the target, got logits: say logits=True"),
        (
            {"architectures": {"net": lambda: nn.Sequential(network(), nn.Softmax(1))}},
            "logits from the architecture net, got probabilities",
        ),
        (
            {"architectures": {"net": partial(next, iter([network()] * 99))}},
            "a new model from each call of the architecture net",
        ),
        ({"target": None}, "expected a torch module for target of the task, got NoneType"),
        ({"own": {"x": 1}}, "expected a metav Part for own of the task, got dict"),
        ({"architectures": [network]}, "expected a dictionary for architectures of the task, got list"),
        ({"epochs": 2.5}, r"expected a whole number for epochs of the task, got float \(2.5\)"),
        ({"fit": 3}, "expected a function for fit of the task, got 3"),
        ({"tuning_lr": -0.1}, "expected a finite tuning_lr above 0, got -0.1"),
        ({"name": "warfarin"}, "expected another name than metav's own 'warfarin'"),
        (
            {"spec": replace(SPEC, output_shape=(1,)), "target": nn.Linear(3, 1)},
            r"expected two outputs or more for probabilities, got output_shape \(1,\)",
        ),
        (
            {
                "spec": replace(SPEC, output="images", output_shape=(1, 12, 12)),
                "target": nn.Sequential(*painter()[:3], nn.Tanh(), painter()[4]),
                **{name: codes(seed=seed) for seed, name in enumerate(("own", "public", "test"))},
            },
            r"expected images in \[0, 1\] from the target, got values from -",
        ),
        ({"architectures": {"net": lambda: 1 / 0}}, "from the architecture net, got ZeroDivisionError"),
        (
            {"target": nn.Linear(3, 5)},
            r"answers of shape \(2, 2\) from the target, got torch.float32 of shape \(2, 5\)",
        ),
        (
            {"target": nn.Sequential(network(), ToDouble())},
            r"float32 answers of shape \(2, 2\) from the target, got torch.float64 of shape \(2, 2\)",
        ),
        (
            {"target": nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 2))},
            "a target whose layers own their weights, got one whose layer '0' computes them",
        ),
        (
            {"public": part()},
            "other examples in the part public than in own, got 40 of 40 that are the same: split what you have",
        ),
        (SMALL, "at least 8 x 8 pixels for a discriminator, got .2, 1, 1."),
        ({"quality": lambda *_: {}}, "expected quality and merit"),
        ({"spec": replace(SPEC, output_shape=(2, 2))}, r"output_shape \(classes,\) for probabilities, got \(2, 2\)"),
        (
            {"spec": replace(SPEC, output="regression", output_shape=())},
            r"output_shape \(1,\) for regression, got \(\)",
        ),
        ({"spec": replace(SPEC, output="images")}, r"output_shape \(channels, height, width\) for images, got \(2,\)"),
        ({"own": Part(x=part().x.numpy(), y=part().y)}, "a plain tensor x in the part own, got ndarray"),
        ({"own": Part(x=part().x, y=part().y.numpy())}, "a plain tensor y in the part own, got ndarray"),
        ({"own": Part(x=part().x.requires_grad_(), y=part().y)}, "x in the part own, got a tensor with gradients"),
        ({"independents": 0}, "models that are independent of the target, got none"),
        ({"target": Fixed()}, "models that are independent of the target"),
        ({"epochs": 0}, "expected epochs of at least 1, got 0"),
        (
            {
                "spec": replace(SPEC, output="regression"),
                **dict.fromkeys(("own", "public"), part(doses=True)),
                "test": Part(x=part().x, y=part(doses=True).y.double()),
            },
            "float32 y in the part test, got torch.float64",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(changes, words):
    with pytest.raises(UsageError, match=words):
        task(**changes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:task", "expected package.module:task, got 'nowhere:task' .No module named 'nowhere'"),
        ("tumours:nothing", "has no attribute 'nothing'"),
        ("tumours:FEATURES", "expected a metav.Task at 'tumours:FEATURES', got int"),
        ("tumour", "expected a scenario among"),
        ("tumours", "got 'tumours': write tumours:task, with the name of your Task after the colon"),
        ("tumours.py", "got 'tumours.py': write tumours:task"),
        ("tumours.py:task", "got 'tumours.py:task': write tumours:task[.]"),
        ("../examples/tumours.py:task", "write tumours:task, and start it in [.][.]/examples/[.]"),
    ],
)
def test_a_task_that_is_not_there_is_wrong_usage(name, words, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(EXAMPLES)
    with pytest.raises(UsageError, match=words):
        scenarios.load(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothere", "got ModuleNotFoundError .No module named 'nothere'. in .*broken.py, line 1: correct it"),
        ("\ndef task(:", "got SyntaxError .* in .*broken.py, line 2: correct it"),
        ("def task():\n    raise ValueError('no data')", "got ValueError .no data. in .*broken.py, line 2: correct it"),
        (
            "from metav import Spec\nSpec(input_shape=(3,), output_shape=(1,), low=1, high=0, output='regression')",
            "^expected .*low",
        ),
    ],
)
def test_a_task_whose_module_fails_says_where(text, words, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(UsageError, match=words):
        scenarios.load("broken:task")


def test_what_is_not_built_is_told_with_the_command_that_builds_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"run metav zoo build tumours:task --profile smoke\.$"):
        Zoo(scenarios.load("tumours:task", "smoke")).record("target")
    with pytest.raises(StorageError, match=r"run metav zoo build tumours:task --zoo '/no where' first\.$"):
        Zoo(scenarios.load("tumours:task"), Path("/no where")).check_settings()


def test_a_ready_negative_is_no_architecture_to_leave_out():
    made = task(architectures={"wide": lambda: network(16)}, negatives={"other": network()}).scenario("cpu")
    assert protocols.what_is_left_out(made, "unseen-architecture") == ["same", "wide"]
    protocols.check_enough(made, "unseen-architecture", [0], 1)


def test_a_negative_and_an_architecture_have_names_of_their_own():
    with pytest.raises(UsageError, match=r"^expected other names for negatives .*, got 'net' for both: rename one\.$"):
        task(architectures={"net": lambda: network(16)}, negatives={"net": network()})


def test_layers_that_share_a_weight_share_it_in_every_suspect(tmp_path):
    zoo = Zoo(task(target=Tied()).scenario("smoke"), tmp_path)
    zoo.build(jobs=1)
    tuned = next(each for each in zoo.lineages() if each.startswith("target>ftal("))
    for lineage in ("target", tuned):
        model = zoo.load(lineage)
        assert model.get_parameter("net.first.weight") is model.get_parameter("net.second.weight")
        assert zoo.record(lineage).parameters == sum(each.numel() for each in Tied().parameters())


def test_the_targets_architecture_may_compute_its_new_weights():
    make = task(target=nn.Sequential(Grid(3, 8), nn.ReLU(), nn.Linear(8, 2))).scenario("smoke").make("same")
    with torch.device("meta"):
        assert not next(make().parameters()).is_meta


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


@pytest.mark.parametrize(("filters", "ratio"), [(64, 0.3), (8, 0.6), (2, None)])
def test_a_cohort_prunes_other_filters_than_the_suspects(filters, ratio):
    target = nn.Sequential(nn.Conv2d(3, filters, 3), nn.Flatten(), nn.Linear(filters, 2))
    assert filter_ratio(target, (0.125, 0.25, 0.375, 0.5)) == ratio


def test_a_module_that_gives_other_data_in_each_process_is_refused(command, tmp_path):
    (tmp_path / "unseeded.py").write_text(
        "import torch\nfrom torch import nn\nfrom metav import Part, Spec, Task\n"
        "drawn = torch.Generator()\ndrawn.seed()\n"
        "def part():\n    x = 2 * torch.rand(40, 3, generator=drawn) - 1\n"
        "    return Part(x=x, y=(x[:, 0] > 0).long())\n"
        "spec = Spec(input_shape=(3,), output_shape=(2,), low=-1.0, high=1.0, output='probabilities')\n"
        "task = Task(name='unseeded', target=nn.Linear(3, 2), spec=spec, own=part(), public=part(), test=part())\n"
    )
    said = " ".join(command("zoo", "build", "unseeded:task", "--profile", "smoke", code=1).split())
    assert "expected the same data of unseeded:task in each process, got " in said
    assert len(list((tmp_path / "home").rglob("*.safetensors"))) == 1  # the target, which this process took


def test_a_protocol_that_can_leave_nothing_out_says_so():
    made = task(independents=0, negatives={"other": network()}).scenario()
    with pytest.raises(UsageError, match="suspects that unseen-architecture can leave out, got none in mine"):
        protocols.what_is_left_out(made, "unseen-architecture")


def test_agreement_of_several_values_is_by_the_spread_of_each():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    target = lambda given: given * torch.tensor([1.0, 0.01, 5000.0])  # noqa: E731
    still = lambda given: torch.zeros(len(given), 3)  # noqa: E731
    part = Part(x=x, y=target(x))
    assert error(target, target, part)["agreement"] == 1
    assert error(still, target, part)["agreement"] < 0.15  # of normal values 8 % are within a tenth
