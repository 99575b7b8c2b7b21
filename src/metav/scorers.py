"""Scorers: from a suspect's answers to a matching rate in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from metav.errors import IntegrityError, unknown

NEGATIVE, POSITIVE = 0, 1  # the meta-verifier's classes: (p-, p+)


class Scorer(Protocol):
    """What turns answers into a matching rate, and how it is written to a file."""

    kind: str

    def rate(self, outputs: Tensor) -> float:
        """Matching rate in [0, 1] of outputs (N, *output_shape)."""
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able keyword arguments that build the same scorer."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""
        ...


class MetaVerifier(nn.Module):
    """The meta-verifier V of MetaV: concatenated answers -> (p-, p+), section 4.1.

    Parameters
    ----------
    answers
        Length of the concatenated answers, N x the size of one output.
    depth
        Hidden ReLU layers, at least 0. The paper's "three-layer" network has one.
    width
        Units of each hidden layer (section 5.5.1: 100).
    clip
        Answers are standardised by the buffers `centre` and `scale` (by default 0 and 1: not at all) and clipped to
        [-clip, clip]; 0 for no clipping.
    """

    kind = "meta-verifier"
    centre: Tensor
    scale: Tensor

    def __init__(self, answers: int, depth: int = 1, width: int = 100, clip: float = 0.0) -> None:
        super().__init__()
        widths = [answers, *[width] * depth]
        hidden: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            hidden += [nn.Linear(narrow, wide), nn.ReLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], 2))
        self.answers, self.depth, self.width, self.clip = answers, depth, width, clip
        self.register_buffer("centre", torch.zeros(answers))
        self.register_buffer("scale", torch.ones(answers))

    def forward(self, answers: Tensor) -> Tensor:
        """Return log (p-, p+), shape (models, 2), of concatenated answers (models, answers)."""
        x = (answers - self.centre) / self.scale
        if self.clip:
            x = x.clamp(-self.clip, self.clip)
        return torch.log_softmax(self.net(x), dim=-1)

    def rate(self, outputs: Tensor) -> float:
        """Matching rate p+ of one suspect's outputs (N, *output_shape)."""
        with torch.no_grad():
            return float(self(outputs.flatten()[None])[0, POSITIVE].exp())

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"answers": self.answers, "depth": self.depth, "width": self.width, "clip": self.clip}


SCORERS = {MetaVerifier.kind: MetaVerifier}


def rebuild(kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Scorer:
    """Return the scorer that `settings()` and `state_dict()` describe.

    Raises
    ------
    UsageError, IntegrityError
        There is no scorer of that kind; its parts do not fit together.
    """
    if kind not in SCORERS:
        raise unknown("scorer", kind, SCORERS)
    try:
        scorer = SCORERS[kind](**settings)
        scorer.load_state_dict(dict(tensors))
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(
            f"expected the parts of a {kind} scorer, got others ({reason}): make the fingerprint again."
        ) from error
    return scorer.eval().requires_grad_(False)
