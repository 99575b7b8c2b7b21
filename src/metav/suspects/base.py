"""What every way to make a suspect shares: the training it asks for, and the draft it hands to the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from metav.checkpoint import Checkpoint
from metav.errors import UsageError, unknown
from metav.optim import OPTIMISERS

Fresh: TypeAlias = Callable[[str, int], nn.Module]
"""A new model from the name of its architecture and the seed of its weights."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one model is trained: on which `data` (a part of the scenario, e.g. `own` or `public`), and how long.

    `epochs` and `batch` (examples a step) are at least 1, `lr` (Adam's rate) is above 0; `seed` fixes the initial
    weights of new layers and the order of the examples. With `until` above 0 the training stops after so many of its
    epochs: a snapshot of the whole one. `loss` names another loss than the scenario's own, `optimiser` is `adam` or
    `sgd`, `decay` the weight decay: a step takes its share lr x decay of each weight. With `adversarial` above 0 it
    learns from inputs each value of which was moved by so much, the way that raises the loss (Goodfellow et al.,
    Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4).
    """

    data: str
    epochs: int
    lr: float
    batch: int
    seed: int
    until: int = 0
    loss: str = ""
    optimiser: str = "adam"
    decay: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("epochs", self.epochs, 1),
            ("batch", self.batch, 1),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise UsageError(f"expected {name} of at least {low}, got {value}: change the lineage.")
        if not 0 <= self.until < self.epochs:
            raise UsageError(
                f"expected until from 0 to below {self.epochs} epochs, got {self.until}: change the lineage."
            )
        if self.optimiser not in OPTIMISERS:
            raise unknown("optimiser", self.optimiser, OPTIMISERS)
        for name, size in (("weight decay", self.decay), ("adversarial change", self.adversarial)):
            if not 0 <= size < math.inf:
                raise UsageError(f"expected a finite {name} of at least 0, got {size}: change the lineage.")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"expected a finite learning rate lr above 0, got {self.lr}: change the lineage.")


@dataclass(kw_only=True)
class Draft:
    """A model before its training, and what to train: the trainer changes `model` in place.

    `training` is None where nothing is left to train. `trainable` names the parameters that may change, `sparse` those
    of them whose zeros stay, as pruning left them; a `teacher`
    gives the targets of a distillation, and the labels too where the student is `unlabelled`; labels alone where not
    `soft`. `prepare` changes `model` by what it does on the training's inputs, before anything is trained. A long
    training saves its state in `checkpoint`. The trainer leaves the state after each epoch of
    `snapshots` in `kept`.
    """

    model: nn.Module
    training: Training | None = None
    trainable: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    teacher: nn.Module | None = None
    unlabelled: bool = False
    soft: bool = True
    prepare: Callable[[Tensor], None] | None = None
    checkpoint: Checkpoint | None = None
    snapshots: tuple[int, ...] = ()
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def keep(self, epochs: int, state: Mapping[str, Tensor]) -> None:
        """Copy the model's `state` after so many epochs, if it is among `snapshots`."""
        if epochs in self.snapshots:
            self.kept[epochs] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def to(self, device: torch.device) -> None:
        """Move the model, and its teacher."""
        for model in (self.model, self.teacher):
            if model is not None:
                model.to(device)


class Step(Protocol):
    """A way to make a suspect. Its parameters are fields of a frozen dataclass, and stand in the lineage."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def draft(self, parent: Any, fresh: Fresh) -> Draft:
        """The suspect before its training, made from the model `parent`, or from None where it has no parent."""
        ...


@runtime_checkable
class Resettable(Protocol):
    """A module that can draw its weights anew, as those of torch that have weights."""

    def reset_parameters(self) -> None:
        """Draw them."""
        ...


def answering(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the part of `model` that answers queries; only this part is pruned, reset or tuned.

    As a rule it is the whole model, by the name "". A model that keeps more, as a GAN its discriminator, names the
    part in its attribute `answers`.
    """
    name = getattr(model, "answers", "")
    return name, model.get_submodule(name)


def all_names(model: nn.Module) -> tuple[str, ...]:
    """Names of all parameters of the part of `model` that answers."""
    prefix, part = answering(model)
    return tuple(name for name, _ in part.named_parameters(prefix=prefix))


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of `model` in order: modules that own a weight of two or more dimensions (linear, convolution)."""
    found = []
    prefix, part = answering(model)
    for name, module in part.named_modules(prefix=prefix):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() >= 2:
            found.append((name, module))
    return found


def matrices(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """All weights of two or more dimensions, each as its module and its name there, in order.

    A layer has one, `weight`; others have several, as a GRU `weight_ih_l0` and attention `in_proj_weight`.
    """
    return [
        (module, name)
        for module in answering(model)[1].modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "weight" in name and parameter.dim() >= 2
    ]


def computed_weights(model: nn.Module) -> str | None:
    """The name of the first layer whose weight is computed from other parameters, as `weight_norm` does; else None."""
    prefix, part = answering(model)
    for name, module in part.named_modules(prefix=prefix):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter) and weight.dim() >= 2:
            return str(name)
    return None
