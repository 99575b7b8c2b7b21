"""Fine-tuning and partial retraining: FTLL, FTAL, RTLL, RTAL, and their forms for the last K layers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from metav.engine import seeded
from metav.errors import UsageError
from metav.suspects.base import Draft, Fresh, Resettable, Training, all_names, layers


@dataclass(frozen=True, kw_only=True)
class FineTuning(Training):
    """Train the last `last` layers of the parent further, all of them if 0 (MetaV, section 3.3).

    As a lineage: `ftll(...)` (last layer), `ftal(...)` (all layers) or `ft(...,last=K)`. Weights that pruning set to
    zero stay zero.
    """

    last: int

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a copy of `parent` of which the last layers are to be trained."""
        model = deepcopy(parent)
        names = last_layers(model, self.last)
        return Draft(model=model, training=self, trainable=names, sparse=names)


@dataclass(frozen=True, kw_only=True)
class Retraining(Training):
    """Reset the last `last` layers at random, then train them; with 0 reset the last one and train all.

    MetaV, section 5.2, item 2. As a lineage: `rtll(...)`, `rtal(...)` or `rt(...,last=K)`.
    """

    last: int

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a copy of `parent` with the last layers at random, which are to be trained."""
        model = deepcopy(parent)
        trainable = last_layers(model, self.last)
        anew = last_layers(model, max(self.last, 1))
        with seeded(self.seed):
            for _, layer in layers(model)[-max(self.last, 1) :]:
                if not isinstance(layer, Resettable):
                    raise UsageError(
                        f"expected reset_parameters of {type(layer).__name__}, got none: add it to retrain the layer."
                    )
                layer.reset_parameters()
        sparse = tuple(name for name in trainable if name not in anew)
        return Draft(model=model, training=self, trainable=trainable, sparse=sparse)


def last_layers(model: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the parameters from the `count`-th layer before the end on; of all of them if `count` is 0."""
    names = all_names(model)
    if count == 0:
        return names
    found = layers(model)
    if not 0 < count <= len(found):
        raise UsageError(f"expected last between 0 and {len(found)} layers, got {count}: change the lineage.")
    prefix = found[-count][0]
    start = f"{prefix}." if prefix else ""  # of a model that is one layer
    first = next((index for index, name in enumerate(names) if name.startswith(start)), None)
    if first is None:
        raise UsageError(
            f"expected weights of its own in the layer {prefix}, got those of another one: choose another last layer."
        )
    return names[first:]
