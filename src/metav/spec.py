"""What a model takes and gives: shapes, the box of its inputs, which inputs a form accepts, the kind of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from metav.errors import UsageError, unknown

OutputKind = Literal["regression", "probabilities", "images"]

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Anything under test: a batch of inputs (n, *input_shape) in, outputs (n, *output_shape) out."""

Bound: TypeAlias = float | tuple[float, ...]

ROUNDING = 1e-6  # of a box's width: an input may lie so far outside


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The interface that target and suspects share.

    Attributes
    ----------
    input_shape, output_shape
        Shapes of one input and one output, without the batch axis.
    low, high
        The box: each input value lies in [low, high]. Of a table also one bound for each feature.
    output
        What an output is: `regression` (real values, `unit` tells of what), `probabilities` (softmax over classes)
        or `images` (values in [0, 1]).
    unit
        The unit of a regression's output, e.g. `mg/week`; empty otherwise.
    steps
        Of a table, the step of each feature's values, counted from its low bound; 0 for one that may have any value. A
        whole number has 1, a yes or no the width of its box. Empty where no feature has a step.
    one_hot
        Of a table, groups of features of which exactly one has its high bound and all others have their low one.

    Raises
    ------
    UsageError
        A shape or a kind of output is not valid; bounds, steps or groups do not fit the inputs.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    low: Bound
    high: Bound
    output: OutputKind
    unit: str = ""
    steps: tuple[float, ...] = ()
    one_hot: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, shape in (("input_shape", self.input_shape), ("output_shape", self.output_shape)):
            if not isinstance(shape, tuple) or not all(isinstance(each, Integral) and each >= 1 for each in shape):
                raise UsageError(f"expected {name} as a tuple of sizes of at least 1, got {shape}: (1,) is one number.")
        if self.output not in (kinds := get_args(OutputKind)):
            raise unknown("kind of output", self.output, kinds)
        features = self.input_shape[0] if len(self.input_shape) == 1 else 0
        try:
            low, high = (_numbers(bound) for bound in (self.low, self.high))
            steps = tuple(map(float, self.steps))
            groups = tuple(tuple(map(int, group)) for group in self.one_hot)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"expected numbers in low and high, a tuple of them in steps, and tuples of features in one_hot, got "
                f"others ({error}): one_hot=((3, 4, 5),) is one group."
            ) from error
        shapes = {name: tuple(map(int, getattr(self, name))) for name in ("input_shape", "output_shape")}
        for name, value in {**shapes, "low": low, "high": high, "steps": steps, "one_hot": groups}.items():
            object.__setattr__(self, name, value)  # plain numbers, whatever they came as: they are saved as JSON
        for name, values in (("low", low), ("high", high), ("steps", steps or 0.0)):
            if isinstance(values, tuple) and not features:
                wanted = "no steps" if name == "steps" else f"one number in {name}"
                raise UsageError(
                    f"expected {wanted} for inputs of shape {self.input_shape}, got {len(values)}: only a table has "
                    "one for each feature."
                )
            if isinstance(values, tuple) and len(values) != features:
                raise UsageError(
                    f"expected one value for each of {features} features of a table in {name}, got {len(values)} for "
                    f"inputs of shape {self.input_shape}: give one number, or one for each."
                )
        least, most = self.bounds()
        if not bool((torch.isfinite(least) & torch.isfinite(most) & (least < most)).all()):
            raise UsageError(f"expected low below high, both finite, got {low} and {high}: change the spec.")
        if steps and not all(0 <= s <= w * (1 + ROUNDING) for s, w in zip(steps, self._widths(), strict=True)):
            raise UsageError(
                f"expected steps from 0, which is for any value, to the width of each feature's box, got {steps}: "
                "change the spec."
            )
        listed = list(chain.from_iterable(groups))
        if len(set(listed)) < len(listed) or not all(0 <= each < features for each in listed) or () in groups:
            raise UsageError(
                f"expected groups of different features, numbered from 0 to {features - 1}, got {groups}: "
                "name each feature once."
            )

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The low and the high bound, float32, each of shape () or (features,)."""
        low, high = torch.broadcast_tensors(torch.tensor(self.low), torch.tensor(self.high))
        return low.float(), high.float()

    def clamp(self, x: Tensor) -> Tensor:
        """Inputs (n, *input_shape) with values outside of the box moved to its border."""
        return x.clamp(*self.bounds())

    def inside(self, x: Tensor) -> bool:
        """Whether all values of inputs (n, *input_shape) are in the box, to rounding."""
        low, high = self.bounds()
        slack = ROUNDING * (high - low)
        return bool(((x >= low - slack) & (x <= high + slack)).all())

    @property
    def box(self) -> str:
        """The box in words."""
        if isinstance(self.low, tuple) or isinstance(self.high, tuple):
            low, high = (tuple(f"{each:g}" for each in bound.tolist()) for bound in self.bounds())
            return "(" + ", ".join(f"[{a}, {b}]" for a, b in zip(low, high, strict=True)) + ")"
        return f"[{self.low:g}, {self.high:g}]"

    @property
    def restricted(self) -> bool:
        """Whether a form rejects some inputs of the box."""
        return any(self.steps) or bool(self.one_hot)

    def choices(self) -> Tensor:
        """Which features (features,) of a table take two values alone: a yes or no, and those of groups."""
        found = torch.zeros(self.input_shape, dtype=torch.bool)
        if self.steps:
            found = torch.tensor(self.steps) > torch.tensor(self._widths()) / 2
        found[list(chain.from_iterable(self.one_hot))] = True
        return found

    def nearest(self, x: Tensor) -> Tensor:
        """The inputs nearest to `x` (n, *input_shape) that a form accepts: on their steps, one of each group."""
        low, high = self.bounds()
        x = x.to(torch.float32).clamp(low, high)
        found = x
        if self.steps:
            step = torch.tensor(self.steps)
            some = step.clamp_min(torch.finfo(torch.float32).tiny)
            sizes = zip(self.steps, self._widths(), strict=True)  # the high bound need not be on a step
            last = torch.tensor([math.floor(width / size * (1 + ROUNDING)) if size else 0.0 for size, width in sizes])
            found = torch.where(step > 0, low + step * ((x - low) / some).round().minimum(last), x)
        for group in map(list, self.one_hot):
            least, most = (bound.expand(len(x), *self.input_shape)[:, group] for bound in (low, high))
            gained = (x[:, group] - least).square() - (x[:, group] - most).square()  # by being the one
            chosen = gained.argmax(1, keepdim=True)
            found = found.index_copy(1, torch.tensor(group), least.scatter(1, chosen, most.gather(1, chosen)))
        return found

    def valid(self, x: Tensor) -> Tensor:
        """Which of the inputs `x` (n, *input_shape) a form accepts, (n,), to rounding; none with NaN."""
        low, high = self.bounds()
        slack = (10 * ROUNDING * (high - low)).expand(self.input_shape)
        if self.steps:  # of a wide box float32 may round by more than ROUNDING of a step, but not by half of it
            step = torch.tensor(self.steps)
            slack = torch.where(step > 0, slack.minimum(step / 4), slack)
        on = (x - self.nearest(x)).abs() <= slack
        return on.flatten(1).all(1)

    def _widths(self) -> list[float]:
        """The width of each feature's box, computed with Python's numbers."""
        count = self.input_shape[0]
        low, high = (bound if isinstance(bound, tuple) else (bound,) * count for bound in (self.low, self.high))
        return [b - a for a, b in zip(low, high, strict=True)]


def _numbers(bound: object) -> Bound:
    """A number, or a tuple of them, from what numpy and torch have as well."""
    listed = torch.as_tensor(bound, dtype=torch.float64)
    return tuple(listed.tolist()) if listed.ndim else float(listed)
