"""Frozen models that are asked often, made cheap to ask: batch norm as part of the weights, weights in bfloat16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from metav.errors import UsageError, brief
from metav.spec import Model

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HALVED = (nn.Linear, *CONVOLUTIONS)  # what autocast computes in bfloat16

CLOSE = 1e-4  # of the largest answer: how far rounding may move one

Module = TypeVar("Module", bound=nn.Module)


class _Tracer(fx.Tracer):
    """Follows what a model does down to its convolutions, whatever class of ours they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CONVOLUTIONS) or super().is_leaf_module(m, module_qualified_name)


def folded(model: Module, x: Tensor) -> Module:
    """A copy of a model in eval mode in which each batch norm right behind a convolution is part of its weights.

    A ReLU right before max-pooling is behind it, where there is less of it to do; convolutions' weights are laid out
    as the images are (`channels_last`). Its answers are the model's, to rounding; all other weights are shared with
    it. A batch norm, or a ReLU, stays where others see what it is given too. The model itself is returned where it has
    no batch norm, cannot be followed (`torch.fx`) or does something unusual with its layers, so that the answers to
    some inputs `x` (n, *input_shape) would change.
    """
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return model
    try:
        found = _cheap(model)
        with torch.no_grad():
            answers, expected = found(x), model(x)
        near = float((answers - expected).abs().max()) <= CLOSE * float(expected.abs().max())
    except Exception:  # whatever a user's model does that torch.fx, or folding, does not know
        return model
    return found if near else model


def _cheap(model: Module) -> Module:
    found = _shared(model)
    modules = dict(found.named_modules())
    for first, second in _pairs(_Tracer().trace(model)):
        before, after = modules[first], modules[second]
        if isinstance(before, CONVOLUTIONS) and isinstance(after, NORMS):
            fused = fuse_conv_bn_eval(before, after, "Transpose" in type(before).__name__)
            found.set_submodule(first, fused.requires_grad_(False))
            found.set_submodule(second, nn.Identity())
        elif isinstance(before, nn.ReLU) and isinstance(after, nn.MaxPool2d):
            found.set_submodule(first, after)
            found.set_submodule(second, before)
    if getattr(model, "channels_last", False):
        for module in found.modules():
            if isinstance(module, nn.Conv2d):  # a parameter of its own: the model's stays as it is
                laid_out = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(laid_out, requires_grad=False)
    return found


def _pairs(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Names of two modules, each called once, of which the second alone sees what the first answers."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    count = Counter(str(node.target) for node in calls)
    for node in calls:
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1:
            first, second = str(source.target), str(node.target)
            if count[first] == count[second] == 1:
                yield first, second


class Halved(nn.Module):
    """A frozen model whose matrix work is done in bfloat16, with its weights in it; answers are float32.

    Answers have two to three digits. Processors without bfloat16 only emulate it, slower than float32.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _shared(model)
        for name, module in list(self.named_modules()):
            if isinstance(module, HALVED):
                self.set_submodule(name, deepcopy(module).to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """The model's answers, float32.

        Raises
        ------
        UsageError
            The model does something that cannot be computed in bfloat16.
        """
        try:
            with torch.autocast(x.device.type, torch.bfloat16):
                answers: Tensor = self.model(x)
        except RuntimeError as error:
            raise UsageError(
                f"expected models that can be asked in bfloat16, got one that cannot ({brief(error)}): "
                "leave out half=1."
            ) from error
        return answers.float()


def halved(model: Model) -> Model:
    """`Halved`, if it is a module; any other model as it is."""
    return Halved(model) if isinstance(model, nn.Module) else model


def _shared(model: Module) -> Module:
    """A copy of the modules, with the same weights."""
    tensors = chain(model.parameters(), model.buffers())
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})
