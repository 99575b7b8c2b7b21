"""Fine-pruning: neurons that do little on the attacker's data are cut off, and the rest is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from metav.errors import UsageError
from metav.suspects.base import Draft, Fresh, layers
from metav.suspects.finetuning import FineTuning
from metav.suspects.pruning import check_ratio

AT_ONCE = 512  # examples


@dataclass(frozen=True, kw_only=True)
class FinePruning(FineTuning):
    """Cut off neurons that are least active on the training's inputs, then tune.

    `dormant` is the share in (0, 1) of those of the last hidden layer. What was cut off stays so. Liu, Dolan-Gavitt and
    Garg, Fine-Pruning, RAID 2018, section 3.2. As a lineage:
    `fineprune(public,3ep,lr=0.0003,batch=32,seed=1,dormant=0.8)`.
    """

    dormant: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.dormant)

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a copy of `parent` that is to be pruned and tuned."""
        draft = super().draft(parent, fresh)
        draft.prepare = partial(cut_off, draft.model, self.dormant)
        return draft


def cut_off(model: nn.Module, ratio: float, x: Tensor) -> None:
    """Set to zero, in place, the weights by which the last layer sees the `ratio` neurons least active on x (n, ...).

    A neuron's activity is the mean magnitude, over examples and positions, of what it gives to the last layer: that
    layer's inputs, or their channels.
    """
    last = layers(model)[-1][1]
    transposed, groups = bool(getattr(last, "transposed", False)), getattr(last, "groups", 1)
    weight = last.get_parameter("weight")
    if groups != 1:
        raise UsageError(
            "expected a last layer that sees all channels for fineprune, got groups of them: use fp(ratio)."
        )
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        each = inputs[0].abs()
        axis = -1 if weight.dim() == 2 else 1  # of features, or of channels
        seen.append(each.movedim(axis, 0).flatten(1).sum(1))

    hook = last.register_forward_pre_hook(note)
    model.eval()
    with torch.no_grad():
        for part in x.split(AT_ONCE):
            model(part)
        hook.remove()
        activity = torch.stack(seen).sum(0)
        count = min(round(ratio * len(activity)), len(activity) - 1)
        dormant = activity.argsort(stable=True)[:count]
        (weight if transposed else weight.transpose(0, 1))[dormant] = 0.0
