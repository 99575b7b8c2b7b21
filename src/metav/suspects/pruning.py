"""Compression: weight pruning (WP) and filter pruning (FP). Nothing is trained."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import prune

from metav.errors import UsageError
from metav.suspects.base import Draft, Fresh, layers, matrices


@dataclass(frozen=True, kw_only=True)
class WeightPruning:
    """Set the `ratio` weights of smallest magnitude to zero (MetaV, section 3.3).

    With `scope` "layer" the ratio holds in each matrix of weights, of which at least one weight stays; with "global"
    over all together. Biases stay. As a lineage: `wp(0.3)` or `wp(0.3,global)`.
    """

    ratio: float
    scope: str = "layer"

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        if self.scope not in ("layer", "global"):
            raise UsageError(f"expected scope layer or global, got {self.scope!r}: change the lineage.")

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a pruned copy of `parent`."""
        model = deepcopy(parent)
        weights = matrices(model)
        for layer, name in weights:  # magnitude pruning views the weight as one vector, whatever its memory format
            getattr(layer, name).data = getattr(layer, name).data.contiguous()
        if self.scope == "global":
            prune.global_unstructured(weights, prune.L1Unstructured, amount=self.ratio)
        else:
            for layer, name in weights:
                count = getattr(layer, name).numel()
                prune.l1_unstructured(layer, name, min(round(self.ratio * count), count - 1))
        for layer, name in weights:
            prune.remove(layer, name)
        return Draft(model=model)


@dataclass(frozen=True, kw_only=True)
class FilterPruning:
    """Set the `ratio` filters of smallest L1 norm to zero in every convolution, with their biases.

    MetaV, section 5.2, item 1 (ratios k/16). Of each convolution at least one filter goes and one stays, as with none
    left a model answers a constant; a convolution with a single filter is left alone. As a lineage: `fp(0.25)`. Needs
    at least one convolution.
    """

    ratio: float

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return a copy of `parent` with filters set to zero."""
        model = deepcopy(parent)
        convolutions = [layer for _, layer in layers(model) if hasattr(layer, "kernel_size")]
        if not convolutions:
            raise UsageError("expected a model with convolutions for fp, got one without: use wp(ratio) instead.")
        for layer in convolutions:
            weight = layer.weight
            assert isinstance(weight, nn.Parameter)  # noqa: S101 (for the type checker: layers() saw it)
            weight.data = weight.data.contiguous()
            filters = _filters(layer, weight.data)
            sizes = filters.abs().flatten(2).sum(2).flatten()
            smallest = sizes.argsort(stable=True)[: gone(self.ratio, len(sizes))]
            filters[smallest // filters.shape[1], smallest % filters.shape[1]] = 0.0
            if isinstance(layer.bias, nn.Parameter):
                layer.bias.data[smallest] = 0.0
        return Draft(model=model)


def _filters(layer: nn.Module, weight: Tensor) -> Tensor:
    """A view (groups, filters of a group, channels, ...) of a convolution's weight, which transposed ones turn."""
    groups = int(getattr(layer, "groups", 1))
    grouped: Tensor = weight.unflatten(0, (groups, -1))
    return grouped.transpose(1, 2) if getattr(layer, "transposed", False) else grouped


def filter_counts(model: nn.Module) -> list[int]:
    """How many filters each convolution of `model` has."""
    found = []
    for _, layer in layers(model):
        weight = layer.weight
        if hasattr(layer, "kernel_size") and isinstance(weight, nn.Parameter):
            found.append(math.prod(_filters(layer, weight).shape[:2]))
    return found


def gone(ratio: float, filters: int) -> int:
    """How many of a convolution's filters are set to zero."""
    return min(max(round(ratio * filters), 1), filters - 1)


def check_ratio(ratio: float) -> None:
    """Raise a `UsageError` where nothing or all would be pruned."""
    if not 0 < ratio < 1:
        raise UsageError(f"expected a pruning ratio above 0 and below 1, got {ratio}: change the lineage.")
