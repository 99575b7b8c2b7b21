"""Scorers: from a suspect's answers to a matching rate in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from metav.errors import IntegrityError, unknown
from metav.scorers.cohort import CohortMatch, CohortRank

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
        return torch.log_softmax(self.logits(answers), dim=-1)

    def logits(self, answers: Tensor) -> Tensor:
        """What the softmax is taken of, (models, 2)."""
        x = (answers - self.centre) / self.scale
        if self.clip:
            x = x.clamp(-self.clip, self.clip)
        found: Tensor = self.net(x)
        return found

    def rate(self, outputs: Tensor) -> float:
        """Matching rate p+ of one suspect's outputs (N, *output_shape), in float64: in float32 many would be 1."""
        with torch.no_grad():
            return float(self.logits(outputs.flatten()[None])[0].double().softmax(0)[POSITIVE])

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"answers": self.answers, "depth": self.depth, "width": self.width, "clip": self.clip}


class LabelAgreement(nn.Module):
    """Share of queries to which a suspect gives the recorded class.

    Parameters
    ----------
    queries
        N, the number of recorded classes; they are the buffer `labels` (N,).
    """

    kind = "label-agreement"
    labels: Tensor

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.register_buffer("labels", torch.zeros(queries, dtype=torch.int64))

    @classmethod
    def of(cls, outputs: Tensor) -> LabelAgreement:
        """Return the scorer of a target's outputs (N, classes); like `rate` from what is answered, not from logits."""
        scorer = cls(len(outputs))
        scorer.labels.copy_(outputs.argmax(-1))
        return scorer

    def rate(self, outputs: Tensor) -> float:
        """Share in [0, 1] of outputs (N, classes) whose largest value is that of the recorded class."""
        return float((outputs.argmax(-1) == self.labels).double().mean())

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"queries": self.queries}


class DecisionDistance(nn.Module):
    """ModelDiff: how alike two models' answers change from an input to its partner (Li et al., ISSTA 2021, section 4).

    Queries are N inputs followed by their N partners. The distance vector has the cosine distances between the answers
    to each input and to its partner; the rate is the cosine similarity of the suspect's vector and the target's.

    Parameters
    ----------
    pairs
        N; the target's vector is the buffer `vector` (N,).
    """

    kind = "decision-distance"
    vector: Tensor

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.pairs = pairs
        self.register_buffer("vector", torch.zeros(pairs))

    @classmethod
    def of(cls, outputs: Tensor) -> DecisionDistance:
        """Return the scorer of a target's outputs (2N, *output_shape)."""
        scorer = cls(len(outputs) // 2)
        scorer.vector.copy_(cls.distances(outputs))
        return scorer

    @staticmethod
    def distances(outputs: Tensor) -> Tensor:
        """Cosine distances (N,), in [0, 2], of outputs (2N, *output_shape)."""
        first, second = outputs.flatten(1).double().chunk(2)
        return (1 - cosine_similarity(first, second, dim=1)).clamp_min(0)

    def rate(self, outputs: Tensor) -> float:
        """Cosine similarity in [0, 1]; 0 for a suspect whose answers never change."""
        found = cosine_similarity(self.distances(outputs), self.vector.double(), dim=0)
        return float(found.clamp(0, 1))

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"pairs": self.pairs}


class Correlation(nn.Module):
    """SAC: how alike the answers of two models correlate among inputs (Guan et al., NeurIPS 2022, section 3).

    Parameters
    ----------
    queries
        N; the target's matrix of cosine distances, halved, is the buffer `matrix` (N, N).
    """

    kind = "correlation"
    matrix: Tensor

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.register_buffer("matrix", torch.zeros(queries, queries))

    @classmethod
    def of(cls, outputs: Tensor) -> Correlation:
        """Return the scorer of a target's outputs (N, *output_shape)."""
        scorer = cls(len(outputs))
        scorer.matrix.copy_(cls.distances(outputs))
        return scorer

    @staticmethod
    def distances(outputs: Tensor) -> Tensor:
        """Matrix (N, N) of (1 - cosine similarity) / 2, in [0, 1], of outputs (N, *output_shape)."""
        unit = normalize(outputs.flatten(1).double(), dim=1)
        similarity = unit @ unit.T
        return ((1 - (similarity + similarity.T) / 2) / 2).clamp(0, 1)  # some processors round the halves apart

    def rate(self, outputs: Tensor) -> float:
        """1 - mean absolute difference of the two matrices, in [0, 1]."""
        return float(1 - (self.distances(outputs) - self.matrix.double()).abs().mean())

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"queries": self.queries}


class LocalVerifiers(nn.Module):
    """LiteGuard: one sigmoid of a linear layer for each query's answer alone; the rate is their mean.

    Parameters
    ----------
    queries, size
        N, and the number of values of one answer.
    """

    kind = "local-verifiers"

    def __init__(self, queries: int, size: int) -> None:
        super().__init__()
        self.queries, self.size = queries, size
        bound = size**-0.5  # as nn.Linear draws
        self.weight = nn.Parameter(torch.empty(queries, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(queries).uniform_(-bound, bound))

    def forward(self, answers: Tensor) -> Tensor:
        """Return logits (models, N) of answers (models, N, size)."""
        return (answers * self.weight).sum(-1) + self.bias

    def rate(self, outputs: Tensor) -> float:
        """Mean in [0, 1] of the verifiers' sigmoids for outputs (N, *output_shape)."""
        with torch.no_grad():
            return float(self(outputs.flatten(1)[None]).sigmoid().mean())

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"queries": self.queries, "size": self.size}


_KINDS: tuple[Any, ...] = (
    MetaVerifier,
    LabelAgreement,
    DecisionDistance,
    Correlation,
    LocalVerifiers,
    CohortMatch,
    CohortRank,
)
SCORERS: dict[str, Any] = {kind.kind: kind for kind in _KINDS}


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
    return cast(Scorer, scorer.eval().requires_grad_(False))
