"""Supervised training of suspects: one by one, or many of one architecture side by side with batched weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss

from metav.checkpoint import Checkpoint
from metav.engine import seeded
from metav.errors import unknown
from metav.optim import OPTIMISERS
from metav.stacks import batched_mlp, in_batches, stack_parameters, stackable, unstacked
from metav.suspects.base import Draft, Training

ANSWERED_AT_ONCE = 512  # examples: images fit into memory, and products are as fast as they get
TEMPERATURE = 4.0  # of distillation; Hinton et al. use 2.5 to 20
SOFT = 0.9  # weight of the teacher: with the true labels "considerably lower" (Hinton et al., section 2)

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets), both (..., batch, *output_shape) -> loss of each example, (..., batch)."""

Imitation = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(outputs, teacher's outputs, labels, progress of the training from 0 to 1) -> loss of each example, (..., batch)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Examples: inputs `x` (n, *input_shape) and true outputs `y` (n, *output_shape), or classes (n,)."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Part:
        """The same examples there."""
        return Part(x=self.x.to(device), y=self.y.to(device))

    def few(self, most: int) -> Part:
        """At most `most` of the examples, drawn at random, always the same, in their order."""
        drawn = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))[:most].sort().values
        return Part(x=self.x[drawn], y=self.y[drawn])


def direct(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs of `model` on `x`."""
    return torch.as_tensor(model(x))


@runtime_checkable
class Classifier(Protocol):
    """A model that answers with probabilities, and is trained on what they are the softmax of.

    Where that is what a part of it answers, its attribute `logits_of` may name the part.
    """

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (n, classes) of a `Classifier`."""
    assert isinstance(model, Classifier)  # noqa: S101 (for the type checker)
    return model.logits(x)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What all supervised trainings of a scenario share.

    Attributes
    ----------
    loss
        Of outputs against labels.
    imitation
        Of a student's outputs against the teacher's and the labels.
    outputs
        (model, inputs) -> what the losses see; a classifier's logits, for example, where the model answers with
        probabilities.
    slanted
        Whether the learning rate goes to 0: it rises over the first tenth of the steps and falls linearly after it.
    labelled
        Labels from a teacher's outputs, for students that have no others; a regression's are the outputs themselves.
    losses
        Other losses than `loss`, by name; a student that names one mixes it as `anneal` does.
    """

    loss: Loss
    imitation: Imitation
    outputs: Callable[[nn.Module, Tensor], Tensor] = direct
    slanted: bool = False
    labelled: Callable[[Tensor], Tensor] = torch.clone
    losses: Mapping[str, Loss] = field(default_factory=dict)

    def of(self, training: Training) -> Objective:
        """The objective with the loss that a training names.

        Raises
        ------
        UsageError
            There is no loss of that name.
        """
        if not training.loss:
            return self
        if training.loss not in self.losses:
            raise unknown("loss", training.loss, self.losses)
        named = self.losses[training.loss]
        return replace(self, loss=named, imitation=partial(anneal, named))


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Absolute error of each example of a regression, mean over its outputs."""
    return (outputs - targets).abs().mean(-1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each example of a regression, mean over its outputs."""
    return (outputs - targets).square().mean(-1)


def spread(values: Tensor) -> Tensor:
    """Standard deviation of each value of examples (n, ...); 1 of those that do not vary."""
    found = values.std(0)
    return torch.where(found > 0, found, 1.0)


def scaled_error(unit: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each example of a regression whose values have units of their own, each by its `unit`."""
    scale = unit.to(outputs.device)
    return squared_error(outputs / scale, targets / scale)


def huber_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error up to 5, linear beyond, of each example of a regression; mean over its outputs."""
    return huber_loss(outputs, targets, reduction="none", delta=5.0).mean(-1)


def quantile_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Pinball loss of the quantile 0.6, of each example of a regression; mean over its outputs."""
    missed = targets - outputs
    return torch.maximum(0.6 * missed, -0.4 * missed).mean(-1)


def class_error(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of each example (..., n), from logits (..., n, classes) and its true class (..., n)."""
    return cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none").view_as(classes)


def fit(drafts: Sequence[Draft], parts: Mapping[str, Part], objective: Objective) -> None:
    """Train each draft's model in place, then freeze it: eval mode, no parameter asks for gradients.

    Multi-layer perceptrons of one shape (or classifiers with such a part for their logits) whose trainings differ in
    data, teacher and seed only, on parts of equal length, are trained side by side; all others one by one. Both ways
    give the same weights to rounding. A training whose draft has a checkpoint goes on where that was saved, and ends in
    the same weights.
    """
    trainings = [draft.training for draft in drafts if draft.training is not None]
    if len(trainings) == len(drafts) > 1 and len({_kin(draft, parts, objective) for draft in drafts}) == 1:
        _fit_side_by_side(drafts, trainings, parts, objective)
    else:
        for draft in drafts:
            if draft.training is not None:
                _fit_one(draft, draft.training, parts, objective)
    for draft in drafts:
        draft.model.eval().requires_grad_(False)


def anneal(loss: Loss, outputs: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Teacher annealing (Clark et al., ACL 2019, section 3.2): from the teacher's answers to the true labels.

    The weight of the labels grows linearly, as `progress` goes from 0 to 1. Mixing the two losses is mixing the two
    targets, as Clark et al. write it, wherever the loss is linear in its target (cross-entropy).
    """
    return torch.lerp(loss(outputs, teacher), loss(outputs, labels), progress)


def soften(temperature: float, weight: float, outputs: Tensor, teacher: Tensor, labels: Tensor, _: float) -> Tensor:
    """Distillation with a temperature (Hinton et al., 2015, section 2), from logits (..., classes) and classes.

    `weight` in [0, 1] is that of the cross-entropy with the teacher's softened probabilities, times the temperature
    squared, so that its gradients keep their size; the rest is that of the cross-entropy with the true labels.
    """
    soft = -(torch.softmax(teacher / temperature, -1) * torch.log_softmax(outputs / temperature, -1)).sum(-1)
    return torch.lerp(class_error(outputs, labels), temperature**2 * soft, weight)


CLASSIFICATION = Objective(
    loss=class_error,
    imitation=partial(soften, TEMPERATURE, SOFT),
    outputs=logits,
    slanted=True,
    labelled=partial(torch.argmax, dim=-1),
)


def slanted(progress: float) -> float:
    """Share of the learning rate, slanted triangular: up over the first tenth, down to 0 over the rest.

    Howard and Ruder, ACL 2018, section 3.2.
    """
    return min(progress / 0.1, (1 - progress) / 0.9)


def nonzero_masks(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where weights of linear layers and convolutions are not zero: zeros that pruning left stay when training goes on.

    Only of those that have any.
    """
    weights = {name: p.detach() for name, p in parameters.items() if name.endswith("weight") and p.dim() >= 2}
    zeros = {name: weight != 0 for name, weight in weights.items()}
    return {name: mask for name, mask in zeros.items() if not mask.all()}


def _fit_one(draft: Draft, training: Training, parts: Mapping[str, Part], objective: Objective) -> None:
    part = parts[training.data]
    taught = None if draft.teacher is None else _answers(draft.teacher, part, objective)
    y = objective.labelled(taught) if draft.unlabelled and taught is not None else part.y
    taught = taught if draft.soft else None
    named = dict(draft.model.named_parameters())
    draft.model.requires_grad_(False)
    learnt = {name: named[name].requires_grad_(True) for name in draft.trainable}
    train_mode(draft.model)
    epochs = (
        (part.x[order], y[order], None if taught is None else taught[order]) for order in _orders(training, len(part.x))
    )
    state = dict(draft.model.named_buffers())
    forward = partial(objective.outputs, draft.model)
    masks = nonzero_masks({name: learnt[name] for name in draft.sparse})
    for done in _descend(forward, learnt, masks, state, epochs, training, objective, draft.checkpoint, axis=0):
        draft.keep(done, draft.model.state_dict())


def train_mode(model: nn.Module) -> None:
    """Train mode, but for modules whose parameters are all frozen: their batch statistics must not move either.

    Nor must those of norms without parameters that come before all that learns.
    """
    model.train()
    learning = False
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        learns = any(parameter.requires_grad for parameter in own)
        learning |= learns
        norm = not own and any(True for _ in module.buffers(recurse=False))
        if (own and not learns) or (norm and not learning):
            module.eval()


def _fit_side_by_side(
    drafts: Sequence[Draft], trainings: Sequence[Training], parts: Mapping[str, Part], objective: Objective
) -> None:
    """As `_fit_one` for B drafts at once: every tensor has a further, first axis of B models."""
    data = [parts[training.data] for training in trainings]
    x, y = torch.stack([part.x for part in data]), torch.stack([part.y for part in data])
    pairs = zip(drafts, data, strict=True)
    answers = [_answers(draft.teacher, part, objective) for draft, part in pairs if draft.teacher is not None]
    taught = torch.stack(answers) if answers else None
    y = objective.labelled(taught) if drafts[0].unlabelled and taught is not None else y
    taught = taught if drafts[0].soft else None
    names, models = zip(*(_learner(draft.model, objective) for draft in drafts), strict=True)
    prefix = names[0]
    weights = stack_parameters(models)
    learnt = {name: weights[name.removeprefix(prefix)].requires_grad_(True) for name in drafts[0].trainable}
    rows = torch.arange(len(drafts))[:, None]
    epochs = (
        (x[rows, order], y[rows, order], None if taught is None else taught[rows, order])
        for order in map(torch.stack, zip(*(_orders(each, x.shape[1]) for each in trainings), strict=True))
    )
    forward = partial(batched_mlp, models[0], weights)
    masks = nonzero_masks({name: learnt[name] for name in drafts[0].sparse})
    for done in _descend(forward, learnt, masks, {}, epochs, trainings[0], objective, drafts[0].checkpoint, axis=1):
        for index, draft in enumerate(drafts):
            if done in draft.snapshots:
                draft.keep(done, {prefix + name: tensor for name, tensor in unstacked(weights, index).items()})
    for index, model in enumerate(models):
        model.load_state_dict(unstacked(weights, index))


def _descend(
    forward: Callable[[Tensor], Tensor],
    learnt: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    epochs: Iterator[tuple[Tensor, Tensor, Tensor | None]],
    training: Training,
    objective: Objective,
    checkpoint: Checkpoint | None,
    *,
    axis: int,
) -> Iterator[int]:
    """Change `learnt` in place by Adam on mini-batches: inputs, labels and a teacher's answers of each epoch.

    Yields the number of epochs done after each.

    The examples are along `axis`; models along the axes before it share no weights, so that the sum of their
    losses keeps their gradients apart. `masks` are 0 where weights stay zero. `state` is what else changes: batch
    statistics.
    """
    objective = objective.of(training)
    optimiser = OPTIMISERS[training.optimiser](learnt.values(), training.lr, decay=training.decay)
    random = torch.get_rng_state()
    live = {**state, **{f"learnt.{name}": each for name, each in learnt.items()}, **optimiser.state(), "random": random}
    done = checkpoint.resume(live) if checkpoint else 0  # steps
    for epoch, (x, y, taught) in enumerate(islice(epochs, training.until or None)):
        batches = [mini_batches(each, training.batch, axis) for each in (x, y, y if taught is None else taught)]
        first = epoch * len(batches[0])
        if done >= first + len(batches[0]):
            continue
        with seeded(training.seed * training.epochs + epoch):  # of dropout
            if done > first:
                torch.set_rng_state(random)
            for index, (inputs, labels, answers) in islice(enumerate(zip(*batches, strict=True)), done - first, None):
                progress = (epoch + index / len(batches[0])) / training.epochs
                if training.adversarial:
                    inputs = adverse(forward, objective.loss, inputs, labels, training.adversarial, axis)
                outputs = forward(inputs)
                if taught is None:
                    errors = objective.loss(outputs, labels)
                else:
                    errors = objective.imitation(outputs, answers, labels, progress)
                if objective.slanted:  # the middle of the step: neither the first nor the last has a rate of 0
                    optimiser.lr = training.lr * slanted(progress + 0.5 / len(batches[0]) / training.epochs)
                error = errors.flatten(axis).mean(-1).sum()
                optimiser.step(torch.autograd.grad(error, optimiser.parameters))
                with torch.no_grad():
                    for name, mask in masks.items():
                        learnt[name] *= mask
                done = first + index + 1
                if checkpoint:
                    random.copy_(torch.get_rng_state())
                    checkpoint.save(live, done)
        yield epoch + 1


def mini_batches(values: Tensor, size: int, axis: int) -> list[Tensor]:
    """Parts of `size` along an axis, the last one smaller; never of one example, which batch norm cannot learn from."""
    count = values.shape[axis]
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    if len(sizes) > 1 and size > 1 and sizes[-1] == 1:
        sizes[-2:] = [size + 1]
    return list(values.split(sizes, axis))


def adverse(
    forward: Callable[[Tensor], Tensor], loss: Loss, inputs: Tensor, labels: Tensor, size: float, axis: int = 0
) -> Tensor:
    """Inputs with each value moved by `size` up the `loss`, within the range of their values (fast gradient sign).

    Examples are along `axis`; models along the axes before it each have a range of their own.
    """
    x = inputs.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(forward(x), labels).sum(), x)
    axes = tuple(range(axis, inputs.dim()))
    return (inputs + size * slope.sign()).clamp(inputs.amin(axes, keepdim=True), inputs.amax(axes, keepdim=True))


def _orders(training: Training, n: int) -> Iterator[Tensor]:
    """The order of the n examples in each epoch, a function of the seed alone."""
    generator = torch.Generator().manual_seed(training.seed)
    for _ in range(training.epochs):
        yield torch.randperm(n, generator=generator)


def _answers(teacher: nn.Module, part: Part, objective: Objective) -> Tensor:
    """The teacher's outputs, in batches that images of a part fit into memory with."""
    with torch.no_grad():
        return in_batches(partial(objective.outputs, teacher), part.x, ANSWERED_AT_ONCE)


def _kin(draft: Draft, parts: Mapping[str, Part], objective: Objective) -> tuple[object, ...]:
    """What drafts must share to be trained side by side; unlike any other where the model is no perceptron."""
    training, (_, model) = draft.training, _learner(draft.model, objective)
    usual = objective.outputs in (direct, logits)  # which `batched_mlp` gives
    if training is None or not usual or not stackable(model) or parts[training.data].x.dim() != 2:
        return (id(draft),)
    shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
    rows = len(parts[training.data].x)
    settings = {**asdict(training), "data": rows, "seed": 0}
    taught = (draft.teacher is None, draft.unlabelled, draft.soft)
    return (str(model), shapes, draft.trainable, draft.sparse, *taught, *settings.values())


def _learner(model: nn.Module, objective: Objective) -> tuple[str, nn.Module]:
    """What a model's parameters' names begin with, and the part of it whose outputs the losses see."""
    name = getattr(model, "logits_of", "") if objective.outputs is logits else ""
    return f"{name}." if name else "", model.get_submodule(name)
