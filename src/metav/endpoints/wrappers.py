"""Wrappers: one endpoint around another, for batch sizes, rates, and inputs as an API wants them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Event, Lock

import torch
from torch import Tensor

from metav.endpoints.base import Endpoint, Wrapper, query_checked
from metav.errors import EndpointError
from metav.spec import Spec


class Batched(Wrapper):
    """Ask at most `size` queries at a time."""

    def __init__(self, inner: Endpoint, size: int) -> None:
        super().__init__(inner)
        self.size = size

    def query(self, batch: Tensor) -> Tensor:
        """The answers of all parts, joined."""
        parts = [query_checked(self.inner, part) for part in batch.split(self.size)]
        if len({part.shape[1:] for part in parts}) > 1:
            raise EndpointError(
                f"expected answers of one shape from {self.about.get('suspect')}, got "
                f"{' and '.join(sorted({str(tuple(part.shape[1:])) for part in parts}))}: ask for one at a time "
                "(--batch 1), or look at what the suspect answers."
            )
        return torch.cat(parts)


class Pace:
    """Turns of all who ask one server: at most `rate` queries a second between them, on average."""

    def __init__(self, rate: float) -> None:
        self.rate, self._next, self._lock = rate, 0.0, Lock()

    def wait(self, queries: int, halt: Event) -> bool:
        """Wait for one's turn to ask so many; whether `halt`, once it is set, has cut that short."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + queries / self.rate
        return halt.wait(turn - now)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What suspects that are asked side by side share.

    Attributes
    ----------
    paces
        Of each server, by host: its suspects keep to one rate together.
    halt
        Set when nobody wants to wait any longer for one's turn, or for a server that wants to be left alone.
    """

    paces: dict[str, Pace] = field(default_factory=dict)
    halt: Event = field(default_factory=Event)


class Paced(Wrapper):
    """Ask at a `pace`, which others may share; nothing more once `halt` is set."""

    def __init__(self, inner: Endpoint, pace: Pace, halt: Event | None = None) -> None:
        super().__init__(inner)
        self.pace, self.halt = pace, halt or Event()

    def query(self, batch: Tensor) -> Tensor:
        """The answers, after waiting for one's turn."""
        if self.pace.wait(len(batch), self.halt):
            raise EndpointError(f"expected to ask {self.about.get('suspect')}, got an interrupt: run it again.")
        return self.inner.query(batch)


class Prepared(Wrapper):
    """Show an API inputs as it wants them: in its own box, with channels last.

    Parameters
    ----------
    inner
        The endpoint.
    spec
        Of the fingerprint, whose box the inputs are in.
    box
        The lowest and highest value that the API has for them; None for the same.
    last
        Move the first axis of an input to the end: (channels, height, width) to (height, width, channels).
    """

    def __init__(self, inner: Endpoint, spec: Spec, box: tuple[float, float] | None, *, last: bool = False) -> None:
        super().__init__(inner)
        self.spec, self.box, self.last = spec, box, last

    def query(self, batch: Tensor) -> Tensor:
        """The answers to the inputs as the API wants them."""
        if self.box is not None:
            low, high = self.spec.bounds()
            batch = self.box[0] + (batch - low) * ((self.box[1] - self.box[0]) / (high - low))
            batch = batch.clamp(*self.box)  # rounding
        return self.inner.query(batch.movedim(1, -1) if self.last else batch)


class Ordered(Wrapper):
    """An endpoint whose answers are put into the target's order of classes.

    Parameters
    ----------
    inner
        The endpoint.
    places
        For each class of the target, its place in the suspect's answers.
    """

    def __init__(self, inner: Endpoint, places: tuple[int, ...]) -> None:
        super().__init__(inner)
        self.places = torch.tensor(places)

    def query(self, batch: Tensor) -> Tensor:
        """Probabilities in the target's order, or labels as the target numbers them."""
        answers = self.inner.query(batch)
        if not answers.numel() or not answers.ndim:  # refused like any answers that are empty
            return answers
        if (flat := answers.flatten(1) if answers.ndim > 1 else answers[:, None]).shape[1] == len(self.places):
            return flat[:, self.places]
        labels = answers.flatten()
        if len(labels) != len(answers) or not torch.isin(labels, torch.arange(len(self.places))).all():
            raise EndpointError(
                f"expected {len(self.places)} probabilities or a class a query from {self.about.get('suspect')}, got "
                f"answers of shape {tuple(answers.shape[1:])}, from {answers.min():g} to {answers.max():g}: leave "
                "--classes out, or give one place a class."
            )
        return self.places.argsort()[labels.long()]
