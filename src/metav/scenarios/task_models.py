"""A user's models as metav sees them: classifiers that answer with probabilities, generators with a discriminator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from metav.adversarial import PENALTY, Gan
from metav.errors import UsageError, brief, missing_extra
from metav.spec import Spec
from metav.suspects.base import Resettable

SAME = "same"  # the architecture of a task's target, from scratch
CHANNELS = 32
OPSET = 18  # of ONNX: the last that onnx2torch knows whole
LEAST = 8  # pixels a side that the discriminator needs


class Classifier(nn.Module):
    """A user's classifier: answers with probabilities, trained on logits."""

    def __init__(self, net: nn.Module, *, gives_logits: bool) -> None:
        super().__init__()
        self.net, self.gives_logits = net, gives_logits
        self.logits_of = "net" if gives_logits else ""

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), or logarithms of probabilities, which are logits too."""
        given: Tensor = self.net(x)
        return given if self.gives_logits else given.clamp(min=1e-12).log()

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (n, classes)."""
        return torch.softmax(self.logits(x), -1)


class Copying(nn.Module):
    """A model that changes its inputs in place, asked with copies of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """What the model answers."""
        return torch.as_tensor(self.net(x.clone()))


def changes_inputs(model: nn.Module, x: Tensor) -> bool:
    """Whether a model changes its inputs (n, *input_shape) in place; others would see the changed ones."""
    given = x.clone()
    with torch.no_grad():
        deepcopy(model).eval()(given)
    return not torch.equal(given, x)


def held(model: nn.Module) -> dict[str, Tensor]:
    """All tensors that a module answers by, those that its state_dict leaves out too; by their names."""
    named = ((prefix, *each) for prefix, module in model.named_modules() for each in vars(module).items())
    drawn = {f"{prefix}.{name}": each for prefix, name, each in named if isinstance(each, Tensor)}
    return {**model.state_dict(), **dict(model.named_buffers()), **drawn}


def with_weights(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that own parameters or statistics of their own."""
    return (m for m in model.modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)])


def first_unresettable(model: nn.Module) -> str:
    """The kind of the first module whose parameters cannot be drawn anew, without reset_parameters; "" for none.

    What has buffers alone, such as the mean and spread of the inputs, may be without.
    """
    owners = (module for module in model.modules() if [*module.parameters(recurse=False)])
    return next((type(each).__name__ for each in owners if not isinstance(each, Resettable)), "")


def ready(model: nn.Module | str | Path) -> nn.Module:
    """A model at hand: a module, or an ONNX file, which becomes one.

    Raises
    ------
    UsageError
        There is no such file, or it is none that onnx2torch can convert.
    MissingExtraError
        onnx2torch is not installed.
    """
    if isinstance(model, nn.Module):
        return model
    if not Path(model).is_file():
        raise UsageError(f"expected an ONNX file for a negative, got no file at {str(model)!r}: check the path.")
    try:
        import onnx
        import onnx2torch
        from onnx import version_converter
    except ImportError as error:
        raise missing_extra(f"{error.name} for the negative {str(model)!r}", "none", "onnx") from error
    try:
        graph = onnx.load(str(model))
        for node in graph.graph.node:  # onnx2torch does not know it, and it matters for empty tensors alone
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if max(each.version for each in graph.opset_import if not each.domain) > OPSET:
            graph = version_converter.convert_version(graph, OPSET)
        found: nn.Module = onnx2torch.convert(graph)
    except Exception as error:  # whatever it raises on a file that is none, or on what it does not know
        raise UsageError(
            f"expected an ONNX file that onnx2torch can convert, got {str(model)!r} ({type(error).__name__}: "
            f"{brief(error)}): give the model as a torch module."
        ) from error
    return found.eval()


def answered(model: nn.Module, x: Tensor, *, singly: bool = False) -> Tensor:
    """Answers of a model in eval mode, which is left as it was; `singly` to one input at a time."""
    asked = deepcopy(model).eval()
    with torch.no_grad():
        if singly:
            return torch.cat([asked(each.clone()) for each in x.split(1)])
        found: Tensor = asked(x.clone())
    return found


def answers_with_logits(model: nn.Module, x: Tensor) -> bool:
    """Whether a classifier's answers to some inputs are no probabilities."""
    given = answered(model, x)
    return bool((given < 0).any() or ((given.sum(-1) - 1).abs() > 1e-3).any())


def with_discriminator(generator: nn.Module, spec: Spec) -> Gan:
    """A generator with a new discriminator of its images, unless it has one: two convolutions and a linear layer.

    Raises
    ------
    UsageError
        There are no images of at least 8 x 8 pixels.
    """
    if isinstance(generator, Gan):
        return generator
    shape = spec.output_shape
    if len(shape) != 3 or min(shape[1:]) < LEAST:
        raise UsageError(
            f"expected images (channels, height, width) of at least {LEAST} x {LEAST} pixels for a discriminator, got "
            f"{shape}: give the task a function fit of your own."
        )
    side = [math.ceil(each / 4) for each in shape[1:]]
    discriminator = nn.Sequential(
        nn.Conv2d(shape[0], CHANNELS, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * CHANNELS * side[0] * side[1], 1),
    )
    return Gan(generator, discriminator, PENALTY)
