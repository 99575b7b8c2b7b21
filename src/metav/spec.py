"""What a model takes and gives: shapes, the box of its inputs, the kind of its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

OutputKind = Literal["regression", "probabilities", "images"]

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Anything under test: a batch of inputs (n, *input_shape) in, outputs (n, *output_shape) out."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The interface that target and suspects share.

    Attributes
    ----------
    input_shape, output_shape
        Shapes of one input and one output, without the batch axis.
    low, high
        The box: each input value lies in [low, high].
    output
        What an output is: `regression` (real values, `unit` tells of what), `probabilities` (softmax over classes)
        or `images` (values in [0, 1]).
    unit
        The unit of a regression's output, e.g. `mg/week`; empty otherwise.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    low: float
    high: float
    output: OutputKind
    unit: str = ""
