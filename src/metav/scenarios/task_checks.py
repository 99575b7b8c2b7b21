"""What is refused of a task before anything is trained: examples, answers and figures that do not fit."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import combinations
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metav.errors import UsageError, brief
from metav.scenarios.base import BUILT_IN
from metav.scenarios.task_models import SAME, answered, answers_with_logits, first_unresettable
from metav.scorers.cohort import LEAST_TEACHERS
from metav.spec import Spec
from metav.suspects.base import computed_weights, layers
from metav.training import Part

if TYPE_CHECKING:
    from metav.scenarios.task import Task

SLACK = 1e-3  # of images beyond [0, 1]
ROUNDING = 0.01  # of the largest answer, that of bfloat16


def check_settings(task: Task) -> None:
    """Refuse what a task cannot be made of, as far as that is seen before its models answer."""
    kinds = {"target": nn.Module, "spec": Spec, **dict.fromkeys(("own", "public", "test"), Part)}
    kinds |= dict.fromkeys(("architectures", "negatives"), Mapping)
    kinds |= dict.fromkeys(("epochs", "tuning", "batch", "students", "independents", "teachers"), int)
    kinds |= {"name": str, **dict.fromkeys(("lr", "tuning_lr"), Real)}
    for setting, kind in kinds.items():
        check_kind(setting, getattr(task, setting), kind)
    check_plain("the target", task.target)
    if not layers(task.target):
        raise UsageError(
            "expected a target with a module that owns a parameter named weight, as thefts prune and retrain these, "
            "got none: build it from layers such as torch.nn.Linear."
        )
    for setting in ("fit", "quality"):
        if not (getattr(task, setting) is None or callable(getattr(task, setting))):
            raise UsageError(
                f"expected a function for {setting} of the task, got {getattr(task, setting)!r}: give one, or leave "
                "it out."
            )
    for setting in ("lr", "tuning_lr"):
        if not 0 < (rate := getattr(task, setting)) < math.inf:
            raise UsageError(f"expected a finite {setting} above 0, got {rate}: change the number.")
    if task.name in BUILT_IN:
        raise UsageError(f"expected another name than metav's own {task.name!r}, got it: rename the task.")
    for name in (task.name, *task.architectures, *task.negatives):
        if re.fullmatch(r"[A-Za-z][\w-]*", name) is None or name in ("target", "ready", SAME):
            raise UsageError(
                f"expected a word for the name of a task, an architecture or a model, got {name!r}: begin with a "
                f"letter, and leave target, ready and {SAME} to metav."
            )
    if both := sorted(task.architectures.keys() & task.negatives.keys()):
        raise UsageError(
            f"expected other names for negatives than for architectures, got {both[0]!r} for both: rename one."
        )
    for name, part in (("own", task.own), ("public", task.public), ("test", task.test)):
        check_part(name, part, task.spec)
    check_apart({"own": task.own, "public": task.public, "test": task.test})
    for count, least in (("epochs", 1), ("tuning", 1), ("batch", 1), ("students", 0), ("independents", 0)):
        if (given := getattr(task, count)) < least:
            raise UsageError(f"expected {count} of at least {least}, got {given}: change the number.")
    if (task.quality is None) != (task.merit is None):
        raise UsageError("expected quality and merit, or neither, got one of them: merit is one of its figures.")
    if task.teachers != 0 and task.teachers < LEAST_TEACHERS:
        raise UsageError(f"expected 0 or at least {LEAST_TEACHERS} teachers, got {task.teachers}: change the number.")
    if (layer := computed_weights(task.target)) is not None:
        raise UsageError(
            f"expected a target whose layers own their weights, got one whose layer {layer!r} computes them "
            "(weight_norm, spectral_norm), so that it cannot be pruned: bake them in, with "
            "torch.nn.utils.parametrize.remove_parametrizations for example."
        )
    unresettable = first_unresettable(task.target)
    if task.teachers and unresettable:
        raise UsageError(
            f"expected a target whose layers all have reset_parameters for teachers, got {unresettable} without: add "
            "it, or leave teachers out."
        )
    if not task.negatives and not (task.independents and (task.architectures or not unresettable)):
        raise UsageError(
            "expected models that are independent of the target, got none: give independents of at least 1 and "
            "architectures (the target's own needs reset_parameters of all its layers), or negatives."
        )


def check_kind(name: str, value: object, kind: type) -> None:
    """Refuse a setting of another type."""
    if not isinstance(value, kind) or isinstance(value, bool):
        word = {
            "Module": "a torch module",
            "Part": "a metav Part",
            "Spec": "a metav Spec",
            "int": "a whole number",
            "Real": "a number",
            "str": "a word",
        }
        raise UsageError(
            f"expected {word.get(kind.__name__, 'a dictionary')} for {name} of the task, got {type(value).__name__}"
            f"{f' ({value})' if isinstance(value, int | float) else ''}: correct it."
        )


def check_plain(name: str, model: nn.Module) -> None:
    """Refuse a module that cannot be kept, copied and trained as its tensors: TorchScript, extra state, lazy layers."""
    if any(isinstance(each, torch.jit.ScriptModule) for each in model.modules()):
        raise UsageError(f"expected a plain torch module for {name}, got TorchScript: give what it was scripted from.")
    if any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        raise UsageError(f"expected layers of known sizes in {name}, got lazy ones: call it once before you give it.")
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"expected tensors alone in the state_dict of {name}, got {type(value).__name__} as {key}: leave "
                "get_extra_state out."
            )


def check_apart(parts: Mapping[str, Part]) -> None:
    """Refuse parts that are the same, or share most of their examples: what is measured would not be on unseen ones.

    Rows that a part has more than once say nothing: in tables of few values the same ones come up again.
    """
    once = {name: _once(part) for name, part in parts.items()}
    for (name, part), (other, another) in combinations(parts.items(), 2):
        shared, least = len(once[name] & once[other]), min(len(part.x), len(another.x))
        if shared > least / 2 or (torch.equal(part.x, another.x) and torch.equal(part.y, another.y)):
            raise UsageError(
                f"expected other examples in the part {other} than in {name}, got {shared or least} of {least} that "
                "are the same: split what you have, for example x[0::3], x[1::3] and x[2::3]."
            )


def _once(part: Part) -> set[bytes]:
    """Digests of the examples that a part has once."""
    rows = zip(part.x.cpu().numpy(), part.y.cpu().numpy(), strict=True)
    found = Counter(hashlib.blake2b(x.tobytes() + y.tobytes(), digest_size=16).digest() for x, y in rows)
    return {row for row, count in found.items() if count == 1}


def check_part(name: str, part: Part, spec: Spec) -> None:
    """Refuse examples that do not fit the spec."""
    for axis, values in (("x", part.x), ("y", part.y)):
        if not isinstance(values, Tensor) or values.requires_grad:
            got = "a tensor with gradients" if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"expected a plain tensor {axis} in the part {name}, got {got}: use torch.from_numpy, or detach()."
            )
    axes = {"probabilities": 1, "images": 3}.get(spec.output, max(1, len(spec.output_shape)))
    if spec.output == "probabilities" and spec.output_shape == (1,):
        raise UsageError(
            "expected two outputs or more for probabilities, got output_shape (1,): of a single logit z make two, for "
            "example with torch.cat([torch.zeros_like(z), z], 1)."
        )
    if len(spec.output_shape) != axes:
        meant = {"probabilities": "(classes,)", "images": "(channels, height, width)"}.get(spec.output, "(1,)")
        raise UsageError(f"expected output_shape {meant} for {spec.output}, got {spec.output_shape}: change the spec.")
    for axis, values, wanted in (
        ("x", part.x, "float32"),
        ("y", part.y, "int64" if spec.output == "probabilities" else "float32"),
    ):
        if str(values.dtype) != f"torch.{wanted}":
            raise UsageError(
                f"expected {wanted} {axis} in the part {name}, got {values.dtype}: convert it with "
                f".{'long' if wanted == 'int64' else 'float'}()."
            )
        if not torch.isfinite(values).all():
            raise UsageError(
                f"expected finite {axis} in the part {name}, got NaN or infinity: leave out rows without a value."
            )
    shape = tuple(part.x.shape)
    if shape[1:] != spec.input_shape or not shape:
        raise UsageError(
            f"expected inputs of shape (n, {', '.join(map(str, spec.input_shape))}) in the part {name}, got {shape}: "
            "check spec.input_shape, and the order of the axes."
        )
    if shape[0] < 2:
        raise UsageError(f"expected at least 2 examples in the part {name}, got {shape[0]}: give more.")
    if not spec.inside(part.x):
        raise UsageError(
            f"expected inputs in {spec.box} in the part {name}, got values in [{part.x.min():g}, "
            f"{part.x.max():g}]: scale them, or give the box that they have in spec."
        )
    if not (rows := spec.valid(part.x)).all():
        raise UsageError(
            f"expected rows that fit spec.steps and spec.one_hot in the part {name}, got {int((~rows).sum())} of "
            f"{shape[0]} that do not, the first is row {int((~rows).nonzero()[0])}: correct the rows or the spec."
        )
    shape = (shape[0],) if spec.output == "probabilities" else (shape[0], *spec.output_shape)
    if tuple(part.y.shape) != shape:
        many = len(shape) == 1 and part.y.dim() == 2 and part.y.shape[1] > 1
        step = "take its argmax(1)" if many else "reshape it, or correct spec.output_shape"
        raise UsageError(f"expected y of shape {shape} in the part {name}, got {tuple(part.y.shape)}: {step}.")
    if spec.output == "images" and not (part.y.min() >= 0 and part.y.max() <= 1):
        raise UsageError(
            f"expected images in [0, 1] in the part {name}, got values from {part.y.min():g} to {part.y.max():g}: "
            "scale them."
        )
    if spec.output == "probabilities" and not (part.y.min() >= 0 and part.y.max() < spec.output_shape[0]):
        raise UsageError(
            f"expected classes from 0 to {spec.output_shape[0] - 1} in the part {name}, got {part.y.min()} to "
            f"{part.y.max()}: number them from 0."
        )


def check_logits(name: str, model: nn.Module, x: Tensor, *, gives_logits: bool) -> None:
    """Refuse a classifier that answers with probabilities where logits are said, or the other way round."""
    if answers_with_logits(model, x) != gives_logits:
        said, got = ("logits", "probabilities") if gives_logits else ("probabilities", "logits")
        raise UsageError(
            f"expected {said} from {name}, got {got}: say logits={not gives_logits} in the task, which is for target "
            "and architectures."
        )


def check_learns(name: str, model: nn.Module, x: Tensor, batch: int) -> None:
    """Refuse a model with weights that cannot learn: no gradient by them, or none from batches of one example."""
    learner = deepcopy(model).eval()
    floats = [each.requires_grad_(True) for each in learner.parameters() if each.is_floating_point()]
    with torch.enable_grad():
        if floats and not torch.as_tensor(learner(x.clone())).requires_grad:
            raise UsageError(
                f"expected answers with gradients by the weights from {name}, got some without: leave torch.no_grad "
                "and detach out of its forward."
            )
        try:
            if batch == 1:
                learner.train()(x[:1].clone())
        except ValueError as error:  # of batch norm
            raise UsageError(
                f"expected {name} to learn from batches of 1, got {brief(error)}: give a larger batch."
            ) from error


def check_new(name: str, make: Callable[[], nn.Module], target: nn.Module, x: Tensor) -> nn.Module:
    """A new model; a function that does not make one in each call is refused: training one would train the others.

    So is one whose models do not answer `x` (n, *input_shape) alike with the same state_dict: what it draws besides
    would be another each time that a model is read from its file.
    """
    first, second = make(), make()
    known = {id(each) for model in (second, target) for each in model.parameters()}
    if any(id(each) in known for each in first.parameters()):
        raise UsageError(
            f"expected a new model from each call of the architecture {name}, got one whose weights are there already: "
            "make the model inside of the function."
        )
    second.load_state_dict(first.state_dict())
    if not _alike(answered(first, x), answered(second, x)):
        raise UsageError(
            f"expected the architecture {name} to keep all that it answers by in its state_dict, got other answers "
            "from a copy of it: register what it draws as a persistent buffer."
        )
    return first


def _alike(answers: Tensor, others: Tensor) -> bool:
    """Whether answers are the same but for rounding, in bfloat16 too."""
    return answers.shape == others.shape and bool((answers - others).abs().max() <= ROUNDING * answers.abs().max())


def check_answers(name: str, make: Callable[[], nn.Module], x: Tensor, spec: Spec) -> None:
    """Refuse a model that cannot be made, or does not answer as the spec says, or not to each input by itself."""
    expected = (len(x), *spec.output_shape)
    try:
        model = make()
        check_plain(name, model)
        answers = answered(model, x)
        tensor = isinstance(answers, Tensor)
        got = f"{answers.dtype} of shape {tuple(answers.shape)}" if tensor else type(answers).__name__
        fits = tensor and tuple(answers.shape) == expected and answers.dtype == torch.float32
        good = fits and bool(torch.isfinite(answers).all())
        got = f"NaN or infinity in {got}" if fits and not good else got
        alone = answered(model, x, singly=True) if good else answers
    except UsageError:
        raise
    except Exception as error:  # whatever a user's model raises on inputs that it does not take
        got, good = f"{type(error).__name__} ({brief(error)})", False
    if not good:
        raise UsageError(
            f"expected finite float32 answers of shape {expected} from {name}, got {got}: check spec.input_shape, "
            "spec.output_shape and the model."
        )
    if not _alike(answers, alone):
        raise UsageError(
            f"expected answers that depend on their own input alone from {name}, got others when asked with one input "
            "at a time: leave out statistics of the batch (track_running_stats=True) and what is random in eval mode."
        )
    if spec.output == "images" and not (answers.min() >= -SLACK and answers.max() <= 1 + SLACK):
        raise UsageError(
            f"expected images in [0, 1] from {name}, got values from {answers.min():g} to {answers.max():g}: end it "
            "with a sigmoid, or with (tanh + 1) / 2."
        )
