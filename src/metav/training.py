"""Supervised training of suspects: one by one, or many of one architecture side by side with batched weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metav.optim import Adam
from metav.suspects.base import Draft, Training

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets), both (..., batch, *output_shape) -> loss of each example, (..., batch)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Examples: inputs `x` (n, *input_shape) and true outputs `y` (n, *output_shape)."""

    x: Tensor
    y: Tensor


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Absolute error of each example of a regression, mean over its outputs."""
    return (outputs - targets).abs().mean(-1)


def fit(drafts: Sequence[Draft], parts: Mapping[str, Part], loss: Loss) -> None:
    """Train each draft's model in place, then freeze it: eval mode, no parameter asks for gradients.

    Perceptrons of one shape whose trainings differ in data, teacher and seed only, on parts of equal length, are
    trained side by side; all others one by one. Both ways give the same weights to rounding.
    """
    if len(drafts) > 1 and all(_is_perceptron(draft.model) for draft in drafts):
        _fit_side_by_side(drafts, parts, loss)
    else:
        for draft in drafts:
            _fit_one(draft, parts, loss)
    for draft in drafts:
        draft.model.eval().requires_grad_(False)


def anneal(loss: Loss, outputs: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Teacher annealing (Clark et al., ACL 2019, section 3.2): from the teacher's answers to the true labels.

    The weight of the labels grows linearly, as `progress` goes from 0 to 1. Mixing the two losses is mixing the two
    targets, as Clark et al. write it, wherever the loss is linear in its target (cross-entropy).
    """
    return torch.lerp(loss(outputs, teacher), loss(outputs, labels), progress)


def _order(training: Training, n: int) -> Iterator[Tensor]:
    """The examples' order in each epoch, a function of the seed alone."""
    generator = torch.Generator().manual_seed(training.seed)
    for _ in range(training.epochs):
        yield torch.randperm(n, generator=generator)


def _teacher_answers(draft: Draft, part: Part) -> Tensor:
    if draft.teacher is None:
        return part.y
    with torch.no_grad():
        return torch.as_tensor(draft.teacher(part.x))


def _masks(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where pruning left zeros: those weights stay zero when training goes on."""
    zeros = {name: tensor != 0 for name, tensor in parameters.items() if "weight" in name}
    return {name: mask for name, mask in zeros.items() if not mask.all()}


def _fit_one(draft: Draft, parts: Mapping[str, Part], loss: Loss) -> None:
    training = draft.training
    if training is None:
        return
    part = parts[training.data]
    n, teacher = len(part.x), _teacher_answers(draft, part)
    named = dict(draft.model.named_parameters())
    draft.model.train().requires_grad_(False)
    learnt = {name: named[name].requires_grad_(True) for name in draft.trainable}
    masks = _masks({name: tensor.detach() for name, tensor in learnt.items()})
    optimiser = Adam(learnt.values(), training.lr)
    steps = training.epochs * -(-n // training.batch)
    done = 0
    for order in _order(training, n):
        for batch in order.split(training.batch):
            outputs = draft.model(part.x[batch])
            error = anneal(loss, outputs, teacher[batch], part.y[batch], done / steps).mean()
            optimiser.step(torch.autograd.grad(error, optimiser.parameters))
            with torch.no_grad():
                for name, mask in masks.items():
                    learnt[name] *= mask
            done += 1


def _fit_side_by_side(drafts: Sequence[Draft], parts: Mapping[str, Part], loss: Loss) -> None:
    """As `_fit_one` for B drafts at once: every tensor has a further, first axis of B models."""
    trainings = [draft.training for draft in drafts if draft.training is not None]
    if not trainings:
        return
    first = trainings[0]
    data = [parts[training.data] for training in trainings]
    x = torch.stack([part.x for part in data])
    y = torch.stack([part.y for part in data])
    teacher = torch.stack([_teacher_answers(draft, part) for draft, part in zip(drafts, data, strict=True)])
    weights = stack_parameters([draft.model for draft in drafts])
    learnt = {name: weights[name].requires_grad_(True) for name in drafts[0].trainable}
    masks = _masks({name: tensor.detach() for name, tensor in learnt.items()})
    optimiser = Adam(learnt.values(), first.lr)
    n = x.shape[1]
    rows = torch.arange(len(drafts))[:, None]
    steps = first.epochs * -(-n // first.batch)
    done = 0
    for orders in zip(*(_order(training, n) for training in trainings), strict=True):
        for batch in torch.stack(orders).split(first.batch, dim=1):
            outputs = perceptron(drafts[0].model, weights, x[rows, batch])
            error = anneal(loss, outputs, teacher[rows, batch], y[rows, batch], done / steps)
            error = error.mean(-1).sum()  # the models share no weights: gradients stay apart
            optimiser.step(torch.autograd.grad(error, optimiser.parameters))
            with torch.no_grad():
                for name, mask in masks.items():
                    learnt[name] *= mask
            done += 1
    with torch.no_grad():
        for index, draft in enumerate(drafts):
            for name, parameter in draft.model.named_parameters():
                parameter.copy_(weights[name][index])


def stack_parameters(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of models of one architecture by name, each (len(models), *shape)."""
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}


def perceptron(template: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs (B, n, out) of B perceptrons with stacked `weights` on their inputs `x` (B, n, in)."""
    for name, module in template.named_children():
        if isinstance(module, nn.Linear):
            x = torch.baddbmm(weights[f"{name}.bias"][:, None], x, weights[f"{name}.weight"].mT)
        else:
            x = module(x)
    return x


def _is_perceptron(model: nn.Module) -> bool:
    return isinstance(model, nn.Sequential) and all(isinstance(m, nn.Linear | nn.ReLU) for m in model)
