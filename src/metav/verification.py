"""A fingerprint meets a suspect: query, understand, score, verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metav.answers import understand, usable
from metav.errors import OrderError, SuspectError, UsageError, brief
from metav.fingerprint import Fingerprint
from metav.spec import Model

STEADY = 1e-3  # answers to one query may differ by this share of their range,
ROUNDING, TINY = 1e-5, 1e-12  # plus this share of the largest, plus this: devices and batches round
FLAT = 0.01  # of the spread of the target's answers: less is nearly none
ALIKE, FACTOR = 0.9, 2.0  # correlation, and least factor, of a derived model's answers in another unit
ASTRAY = 0.2  # a correlation with the target's answers that is less than nearly all thefts have
ROUNDS = 5  # how often a suspect is asked in all whose answers change


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of one verification.

    `rate` is the matching rate in [0, 1]; `derived` is True when it is above `threshold`. `queries` counts what the
    suspect was asked, `seconds` is the time for asking and scoring. `p_value` in (0, 1] is how often a stranger would
    match the target at least as well, where the fingerprint tells: `cohort(exact=1)`. `remarks` say how its answers
    were converted, and whether they changed from one time to the next. `about` is what an endpoint reports about
    itself.
    """

    rate: float
    threshold: float
    queries: int
    seconds: float
    p_value: float | None = None
    remarks: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def derived(self) -> bool:
        """Whether the suspect is called derived from the target."""
        return self.rate > self.threshold


def query(model: Model, queries: Tensor) -> Tensor:
    """Answers of a suspect (N, *output_shape) to queries (N, *input_shape), without gradients.

    It is given a copy: a model may change its inputs in place, or answer with them.

    Raises
    ------
    SuspectError
        What it answers is no array of numbers.
    """
    with torch.no_grad():
        answers = model(queries.clone())
    try:
        return torch.as_tensor(answers)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SuspectError(
            f"expected an array of numbers from the model, got {type(answers).__name__} ({brief(error)}): give a "
            "function that returns its outputs alone."
        ) from error


def verify(fingerprint: Fingerprint, model: Model, *, repeat: int = 0) -> Verdict:
    """Ask a suspect the fingerprint's queries, and judge it by its answers (stage 3 of MetaV, section 4.1).

    Parameters
    ----------
    fingerprint
        Queries, scorer and threshold.
    model
        The suspect: a callable on batches, or an endpoint.
    repeat
        How many of the queries are asked a second time. If an answer then changes, all are asked until each has
        `ROUNDS` answers, and each of these rounds must give the same verdict, and their mean answers too, whose rate
        counts.

    Raises
    ------
    SuspectError
        The answers are not of the target's task, not finite, or in another order of classes; or they change, and the
        verdict with them.
    EndpointError
        The suspect could not be asked.
    UsageError
        `repeat` is below 0.
    """
    if repeat < 0:
        raise UsageError(f"expected repeat of at least 0, got {repeat}: give how many queries are asked twice.")
    start = time.perf_counter()
    queries, asked = fingerprint.queries, len(fingerprint.queries)

    def understood(answers: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        return understand(answers, fingerprint.spec, len(queries), fingerprint.reference)

    raw = query(model, queries)
    try:
        outputs, remarks = understood(raw)
    except OrderError as error:
        places = getattr(model, "places", None)  # of an endpoint that had put the answers into an order already
        if places is None:
            raise
        raise error.after(places.tolist()) from error
    rate = fingerprint.score(outputs)
    if repeat:
        again = query(model, queries[:repeat])
        asked += len(queries[:repeat])
        by_value = fingerprint.spec.output == "regression"  # whose values may be of several units
        if _changed(usable(raw, len(queries)), usable(again, len(queries[:repeat])), by_value=by_value):
            rounds = [outputs, *(understood(query(model, queries))[0] for _ in range(ROUNDS - 1))]
            asked += (ROUNDS - 1) * len(queries)
            outputs = torch.stack(rounds).mean(0)
            rate = fingerprint.score(outputs)
            rates = [*(fingerprint.score(each) for each in rounds), rate]
            if len({each > fingerprint.threshold for each in rates}) > 1:
                raise SuspectError(
                    "expected the same answers to the same queries, got other ones each time, with matching rates from "
                    f"{min(rates):.3f} to {max(rates):.3f} around the threshold of {fingerprint.threshold:.3f}: no "
                    "verdict can be given on this suspect."
                )
            remarks += (f"answers change: asked {ROUNDS} times, rates from {min(rates):.3f} to {max(rates):.3f}",)
    if (reference := fingerprint.reference) is not None:
        if _flat(outputs, reference):
            remarks += ("nearly the same answer to every query: look at the model, and at how it takes its inputs",)
        elif rate > fingerprint.threshold and (follow := float(_correlations(outputs, reference).mean())) < ASTRAY:
            remarks += (
                f"answers hardly follow the target's (correlation {follow:.2f}), unlike those of most thefts: look at "
                "the model, and at how it takes its inputs",
            )
        if fingerprint.spec.output == "regression" and (times := _rescaled(outputs, reference)):
            remarks += (f"answers follow the target's at {times:.3g} times their size: are they in another unit?",)
    elif fingerprint.spec.output == "probabilities":
        remarks += ("the order of classes was not checked, as the fingerprint has no answers of the target",)
    return Verdict(
        rate=rate,
        threshold=fingerprint.threshold,
        p_value=fingerprint.p_value(outputs),
        queries=asked,
        seconds=time.perf_counter() - start,
        remarks=remarks,
        about=_reported(model),
    )


def _reported(model: Model) -> dict[str, str]:
    about = getattr(model, "about", None)
    return dict(about) if isinstance(about, Mapping) else {}


def _flat(outputs: Tensor, reference: Tensor) -> bool:
    """Whether answers (N, ...) differ from query to query far less than the target's."""
    spread, usual = (each.double().std(0, correction=0).norm() for each in (outputs, reference))
    return bool(spread < FLAT * usual)


def _correlations(outputs: Tensor, reference: Tensor) -> Tensor:
    """Of each value of answers (N, ...) with the target's, where those vary; 0 where these do not."""
    ours, theirs = (_centred(each) for each in (reference, outputs))
    lengths = ours.norm(dim=0) * theirs.norm(dim=0)
    found = torch.where(lengths > 0, (ours * theirs).sum(0) / lengths, 0.0)
    return found[ours.norm(dim=0) > 0]


def _rescaled(outputs: Tensor, reference: Tensor) -> float:
    """By what the target's answers are to be multiplied to be much like these, if that is far from 1; else 0.

    Of the first value of answers (N, ...) of which this is so.
    """
    ours, theirs = (_centred(each) for each in (reference, outputs))
    varies = ours.norm(dim=0) > 0
    times = ((ours * theirs).sum(0) / ours.square().sum(0))[varies][_correlations(outputs, reference) > ALIKE]
    far = times[(times < 1 / FACTOR) | (times > FACTOR)]
    return float(far[0]) if len(far) else 0.0


def _centred(answers: Tensor) -> Tensor:
    flat = answers.double().flatten(1)
    return flat - flat.mean(0)


def _changed(first: Tensor, second: Tensor, *, by_value: bool) -> bool:
    """Whether answers to the same queries differ by more than rounding, of all their values or `by_value`."""
    if first[: len(second)].shape != second.shape:
        return True
    axes = 0 if by_value else tuple(range(first.dim()))
    apart, size = (first[: len(second)] - second).abs().amax(axes), first.abs().amax(axes)
    return bool((apart > STEADY * (first.amax(axes) - first.amin(axes)) + ROUNDING * size + TINY).any())
