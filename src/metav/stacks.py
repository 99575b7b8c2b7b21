"""Many models at once: perceptrons of one shape by batched products, all others one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

# value by value, so that a stack of models needs no other code for them
ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.SiLU, nn.GELU, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Softsign, nn.Hardtanh),
)
IMAGES = 256  # at once: what a cache holds
AT_ONCE = 16_384  # answers, so that hidden values take little memory


def together(models: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """One function that gives the answers (B, n, *output_shape) of B models to inputs (n, *input_shape)."""
    shapes = {(str(model), *(tuple(each.shape) for each in model.parameters())) for model in models}
    if len(shapes) == 1 and stackable(models[0]):
        return partial(_side_by_side, models[0], stack_parameters(models))
    return partial(_in_turn, list(models))


def _side_by_side(template: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if x.dim() > 2:  # further axes are as further inputs to a perceptron
        answers: Tensor = _side_by_side(template, weights, x.flatten(0, -2)).unflatten(1, x.shape[:-1])
        return answers
    count = len(next(iter(weights.values())))
    few = max(1, AT_ONCE // count)
    return torch.cat([batched_mlp(template, weights, each.expand(count, *each.shape)) for each in x.split(few)], 1)


def _in_turn(models: Sequence[nn.Module], x: Tensor) -> Tensor:
    return torch.stack([in_batches(model, x) for model in models])


def in_batches(model: Callable[[Tensor], Tensor], x: Tensor, size: int = IMAGES) -> Tensor:
    """A model's answers (n, *output_shape) to inputs (n, *input_shape), `size` at a time."""
    return torch.cat([model(part) for part in x.split(size)])


def stackable(model: nn.Module) -> bool:
    """Whether a model is a multi-layer perceptron that `batched_mlp` can compute: each module and weight used once."""
    if type(model) is not nn.Sequential or len(model) > len(list(model.children())):
        return False
    names = [name for name, _ in model.named_parameters()]  # without the second names of shared weights
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    return (
        not hooked
        and names == list(model.state_dict())
        and all(type(each) in ACTIVATIONS or _plain(each) for each in model)
    )


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is torch's linear one, with a bias, and has no other parameters (of a weight norm, say)."""
    return type(layer) is nn.Linear and {name for name, _ in layer.named_parameters()} == {"weight", "bias"}


def stack_parameters(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of B MLPs by name: weights (B, in, out), which is how gradients come, and biases (B, out)."""
    named = [dict(model.named_parameters()) for model in models]
    stacked = {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}
    return {name: tensor.mT.contiguous() if tensor.dim() == 3 else tensor for name, tensor in stacked.items()}


def unstacked(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Parameters of one of the MLPs of `stack_parameters`, as its state dict has them."""
    found = {name: tensor[index].detach() for name, tensor in weights.items()}
    return {name: tensor.mT if tensor.dim() == 2 else tensor for name, tensor in found.items()}


def batched_mlp(template: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs (B, n, out) of B MLPs with the `weights` of `stack_parameters` on their inputs `x` (B, n, in)."""
    for name, module in template.named_children():
        if isinstance(module, nn.Linear):
            x = torch.baddbmm(weights[f"{name}.bias"][:, None], x, weights[f"{name}.weight"])
        else:
            x = module(x)
    return x
