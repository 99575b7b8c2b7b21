"""What is refused of a task before anything is trained: examples, answers and figures that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import SupportsFloat

import torch
from torch import Tensor, nn

from metav.errors import UsageError
from metav.scenarios.base import Merit
from metav.scenarios.task_models import answered
from metav.spec import Spec
from metav.training import Part

RESERVED = {  # names of figures that results and listings have of each suspect
    *("scheme", "queries", "models", "left_out", "view", "repetition", "lineage", "family", "positive", "rate"),
    *("threshold", "useful", "quality", "derived", "truly", "parameters", "seconds", "digest"),
}


def check_figures(figures: Mapping[str, float], merit: Merit) -> None:
    """Refuse figures of quality that results could not hold."""
    if not all(isinstance(value, SupportsFloat) and math.isfinite(value) for value in figures.values()):
        raise UsageError(f"expected finite figures of quality of the target, got {figures}: correct quality.")
    if merit.name not in figures:
        raise UsageError(f"expected {merit.name!r} among the figures of quality, got {', '.join(figures)}: name merit.")
    if taken := sorted(RESERVED & figures.keys()):
        raise UsageError(
            f"expected figures of quality with names of their own, got {', '.join(taken)}: results have another figure "
            "of that name, rename yours."
        )


def check_part(name: str, part: Part, spec: Spec) -> None:
    """Refuse examples that do not fit the spec."""
    for axis, values in (("x", part.x), ("y", part.y)):
        if not isinstance(values, Tensor) or values.requires_grad:
            got = "a tensor with gradients" if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"expected a plain tensor {axis} in the part {name}, got {got}: use torch.from_numpy, or detach()."
            )
    shape = tuple(part.x.shape)
    if len(shape) < 1 or shape[0] < 2 or shape[1:] != spec.input_shape or part.x.dtype != torch.float32:
        raise UsageError(
            f"expected float32 inputs of shape (n, {', '.join(map(str, spec.input_shape))}) in the part {name}, got "
            f"{part.x.dtype} of shape {shape}: check spec.input_shape, and the order of the axes."
        )
    if not torch.isfinite(part.x).all() or not spec.inside(part.x):
        raise UsageError(
            f"expected inputs in {spec.box} in the part {name}, got values in [{part.x.min():g}, "
            f"{part.x.max():g}]: scale them, or give the box that they have in spec."
        )
    if not (rows := spec.valid(part.x)).all():
        raise UsageError(
            f"expected rows that fit spec.steps and spec.one_hot in the part {name}, got {int((~rows).sum())} of "
            f"{shape[0]} that do not, the first is row {int((~rows).nonzero()[0])}: correct the rows or the spec."
        )
    wanted = (shape[0],) if spec.output == "probabilities" else (shape[0], *spec.output_shape)
    if tuple(part.y.shape) != wanted:
        raise UsageError(f"expected y of shape {wanted} in the part {name}, got {tuple(part.y.shape)}: reshape it.")
    if spec.output == "regression" and not (part.y.dtype == torch.float32 and torch.isfinite(part.y).all()):
        raise UsageError(
            f"expected finite float32 y in the part {name}, got {part.y.dtype} from {part.y.min():g} to "
            f"{part.y.max():g}: convert it with .float(), and leave out rows without a value."
        )
    if spec.output == "images" and not (part.y.dtype == torch.float32 and part.y.min() >= 0 and part.y.max() <= 1):
        raise UsageError(
            f"expected float32 images in [0, 1] in the part {name}, got {part.y.dtype} from {part.y.min():g} to "
            f"{part.y.max():g}: scale them."
        )
    if spec.output == "probabilities":
        classes = spec.output_shape[0]
        if part.y.dtype != torch.int64 or part.y.min() < 0 or part.y.max() >= classes:
            raise UsageError(
                f"expected int64 classes from 0 to {classes - 1} in the part {name}, got {part.y.dtype} from "
                f"{part.y.min()} to {part.y.max()}: number them from 0."
            )


def check_answers(name: str, make: Callable[[], nn.Module], x: Tensor, spec: Spec) -> None:
    """Refuse a model that cannot be made, or does not answer as the spec says."""
    expected = (len(x), *spec.output_shape)
    try:
        answers = answered(make(), x)
        tensor = isinstance(answers, Tensor)
        got = f"shape {tuple(answers.shape)}" if tensor else type(answers).__name__
        good = tensor and tuple(answers.shape) == expected and bool(torch.isfinite(answers).all())
    except Exception as error:  # whatever a user's model raises on inputs that it does not take
        got, good = f"{type(error).__name__} ({' '.join(str(error).split())[:120]})", False
    if not good:
        raise UsageError(
            f"expected finite answers of shape {expected} from {name}, got {got}: check spec.input_shape, "
            "spec.output_shape and the model."
        )
