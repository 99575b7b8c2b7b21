"""What is refused of a task before anything is trained: examples, answers and figures that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metav.errors import UsageError
from metav.scenarios.task_models import answered
from metav.spec import Spec
from metav.training import Part


def check_part(name: str, part: Part, spec: Spec) -> None:
    """Refuse examples that do not fit the spec."""
    for axis, values in (("x", part.x), ("y", part.y)):
        if not isinstance(values, Tensor) or values.requires_grad:
            got = "a tensor with gradients" if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"expected a plain tensor {axis} in the part {name}, got {got}: use torch.from_numpy, or detach()."
            )
    axes = {"probabilities": 1, "images": 3}.get(spec.output, max(1, len(spec.output_shape)))
    if len(spec.output_shape) != axes:
        meant = {"probabilities": "(classes,)", "images": "(channels, height, width)"}.get(spec.output, "(1,)")
        raise UsageError(f"expected output_shape {meant} for {spec.output}, got {spec.output_shape}: change the spec.")
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
        got = f"{answers.dtype} of shape {tuple(answers.shape)}" if tensor else type(answers).__name__
        fits = tensor and tuple(answers.shape) == expected and answers.dtype == torch.float32
        good = fits and bool(torch.isfinite(answers).all())
    except Exception as error:  # whatever a user's model raises on inputs that it does not take
        got, good = f"{type(error).__name__} ({' '.join(str(error).split())[:120]})", False
    if not good:
        raise UsageError(
            f"expected finite float32 answers of shape {expected} from {name}, got {got}: check spec.input_shape, "
            "spec.output_shape and the model."
        )
