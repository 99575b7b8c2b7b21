"""What does not fit together in an own task is said before anything is trained."""

from __future__ import annotations

import math
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

from metav import Part, protocols, scenarios
from metav.cli import main
from metav.errors import MetavError, StorageError, UsageError
from metav.scenarios.base import Merit
from metav.zoo import Zoo
from own_task import EXAMPLES, SPEC, Fixed, codes, network, painter, part, task

SMALL = {  # a generator of images of a single pixel
    "spec": replace(SPEC, output="images", output_shape=(2, 1, 1)),
    "target": nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1, 1))),
    **{
        name: Part(x=part(seed=seed).x, y=part(seed=seed, doses=True).y.clamp(0, 1)[..., None, None])
        for seed, name in enumerate(("own", "public", "test"))
    },
}


class ToDouble(nn.Module):
    """What a scaler's numpy arrays make of answers."""

    def forward(self, x):
        return x.double()


@pytest.mark.parametrize(
    ("negative", "words"),
    [
        (nn.Linear(4, 2), "from the negative stranger, got RuntimeError"),
        (nn.Linear(3, 5), r"from the negative stranger, got torch.float32 of shape \(8, 5\)"),
        (nn.LSTM(3, 2), "from the negative stranger, got tuple"),
    ],
)
def test_a_negative_of_another_task(negative, words):
    with pytest.raises(UsageError, match=words):
        task(negatives={"stranger": negative}).scenario()


def test_a_negative_that_is_no_onnx_file(tmp_path):
    (tmp_path / "page.onnx").write_text("<html>")
    for name, words in (
        ("page.onnx", "expected an ONNX file that onnx2torch can convert, got '.*page.onnx' .*torch module"),
        ("nowhere.onnx", "expected an ONNX file for a negative, got no file at '.*nowhere.onnx': check the path"),
    ):
        with pytest.raises(UsageError, match=words):
            task(negatives={"stranger": tmp_path / name}).scenario()


class Projected(nn.Module):
    """Random features of the inputs, drawn when it is made and kept in one of three ways."""

    def __init__(self, kept: str, drawn: torch.Tensor | None = None) -> None:
        super().__init__()
        drawn = torch.randn(3, 8) if drawn is None else drawn
        if kept == "attribute":
            self.drawn = drawn
        else:
            self.register_buffer("drawn", drawn, persistent=kept == "persistent")
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last((x @ self.drawn).cos())


@pytest.mark.parametrize("kept", ["attribute", "passing"])
def test_an_architecture_that_answers_by_more_than_its_file_would_hold_is_refused(kept):
    task(architectures={"features": lambda: Projected("persistent")})
    with pytest.raises(UsageError, match="features to keep all that it answers by in its state_dict"):
        task(architectures={"features": lambda: Projected(kept)})


@pytest.mark.parametrize("kept", ["attribute", "passing", "persistent"])
def test_another_constant_in_the_target_is_another_zoo(kept):
    torch.manual_seed(1)
    target = Projected(kept)
    other = deepcopy(target)
    other.drawn += 1
    methods = {task(target=model).scenario("smoke").method for model in (target, other, deepcopy(target))}
    assert len(methods) == 2


class OfTheBatch(nn.Module):
    """Answers that depend on which other inputs are asked at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x - x.mean(0))


class Noisy(nn.Module):
    """Answers that depend on chance, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(nn.functional.dropout(x, 0.5))


@pytest.mark.parametrize("make", [OfTheBatch, Noisy])
def test_answers_that_depend_on_more_than_their_input_are_refused(make):
    words = "answers that depend on their own input alone from the {}, got others when asked with one input at a time"
    with pytest.raises(UsageError, match=words.format("target")):
        task(target=make())
    with pytest.raises(UsageError, match=words.format("architecture other")):
        task(architectures={"other": make})
    with pytest.raises(UsageError, match=words.format("negative other")):
        task(negatives={"other": make()}).scenario()


class WithState(nn.Linear):
    """A layer that keeps more than tensors."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_modules_that_are_more_than_their_tensors_are_refused():
    with pytest.warns(FutureWarning):  # of torch, which still makes them
        scripted = torch.jit.script(network())
    with pytest.raises(UsageError, match="expected a plain torch module for the target, got TorchScript"):
        task(target=scripted)
    with pytest.raises(UsageError, match="expected a plain torch module for the negative other, got TorchScript"):
        task(negatives={"other": scripted}).scenario()
    with pytest.raises(UsageError, match="sizes in the architecture lazy, got lazy ones: call it once"):
        task(architectures={"lazy": lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))})
    with pytest.raises(UsageError, match="alone in the state_dict of the target, got dict as _extra_state: leave get_"):
        task(target=WithState(3, 2))


class Bare(nn.Module):
    """A model whose only weights have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        return x @ self.slopes


def test_a_target_without_layers_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"a module that owns a parameter named weight.* got none: build it from"):
        task(target=Bare())


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
            r"answers of shape \(8, 2\) from the architecture net, got RuntimeError .mat1",
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
        ({"lr": "0.001"}, "expected a number for lr of the task, got str"),
        ({"name": 3}, r"expected a word for name of the task, got int \(3\)"),
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
            r"answers of shape \(8, 2\) from the target, got torch.float32 of shape \(8, 5\)",
        ),
        (
            {"target": nn.Sequential(network(), ToDouble())},
            r"float32 answers of shape \(8, 2\) from the target, got torch.float64 of shape \(8, 2\)",
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
        ("tumuors:task", "No module named 'tumuors'.: did you mean 'tumours:task'[?]"),
        ("tumours:nothing", "has no attribute 'nothing'.: check both names"),
        ("tumor:nothing", "No module named 'tumor'.: did you mean 'tumours:nothing'[?]"),
        ("statistic:mean", "No module named 'statistic'.: check both names"),
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


def test_a_negative_and_an_architecture_have_names_of_their_own():
    with pytest.raises(UsageError, match=r"^expected other names for negatives .*, got 'net' for both: rename one\.$"):
        task(architectures={"net": lambda: network(16)}, negatives={"net": network()})


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
