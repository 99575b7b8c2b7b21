"""What a scheme is given and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from metav.errors import SuspectError, UsageError
from metav.fingerprint import Fingerprint
from metav.scorers import Scorer
from metav.spec import Model, Spec
from metav.verification import query

Answer = Literal["labels", "vectors", "anything"]

Columns = Callable[[Model, Tensor], Tensor]
"""(models, inputs) -> some figures for each of their answers, (models, n, c)."""

ROUNDING = 1e-5  # by how much a rate may differ where the same model is computed in another way
GLANCE = 64  # examples whose answers tell that a target is of no use

ANSWERS: dict[Answer, str] = {
    "labels": "class labels",
    "vectors": "answers of several values",
    "anything": "answers of any kind",
}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a scheme needs, so that nobody has to find out.

    Attributes
    ----------
    answers
        What a suspect must answer with: class `labels`, `vectors` (two values or more), or `anything`.
    gradients
        Whether the target must give gradients with respect to its inputs; otherwise its answers are enough.
    suspects
        Whether it learns from positive and negative suspects (the zoo); with a `cohort`, from negative ones alone.
    data
        Whether it needs inputs of the task; some schemes for class labels need their true classes too.
    images
        Whether the inputs must be images (channels, height, width).
    per_query
        Answers it asks a suspect for, for each of N.
    snapshots
        Whether it learns from snapshots of the suspects' trainings too, where there are some.
    cohort
        Whether it needs the matched-teacher cohort.
    """

    answers: Answer
    gradients: bool = True
    suspects: bool = False
    data: bool = True
    images: bool = False
    per_query: int = 1
    snapshots: bool = False
    cohort: bool = False

    @property
    def thefts(self) -> bool:
        """Whether it learns from the zoo's stolen models: a scheme with a cohort has the cohort's."""
        return self.suspects and not self.cohort

    def lacking(self, spec: Spec) -> str:
        """What models with the interface `spec` do not give, in words; empty if the scheme can be used."""
        several = math.prod(spec.output_shape) > 1
        if self.answers == "labels" and (spec.output != "probabilities" or not several):
            return ANSWERS["labels"]
        if self.answers == "vectors" and not several:
            return ANSWERS["vectors"]
        if self.images and len(spec.input_shape) != 3:
            return "images as inputs"
        return ""


@dataclass(frozen=True, kw_only=True)
class CohortModels:
    """The matched-teacher cohort: M `teachers` and R copies of the target, put through each kind of theft.

    `kinds` gives the answers (M + R, n, *output_shape) of each kind's thefts, the teachers' first; the first kind is
    the models as they are. `others` are further independent models.
    """

    teachers: int
    kinds: Mapping[str, Model]
    others: Sequence[Model] = ()

    def columns(self, kind: str, x: Tensor, columns: Columns, how: str) -> Tensor:
        """What `columns` makes of the answers of a kind's thefts to x (n, ...), one by one; `how` names what it does.

        A cohort may keep that, as its models are many.
        """
        return columns(self.kinds[kind], x)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The models and data a scheme may use: M- and M+ of the paper, the target F, and public examples.

    Models are frozen callables on batches; `data` has shape (n, *spec.input_shape), `labels` (n,) holds the classes of
    a classification, None for other tasks. `positives` may be empty for a scheme whose needs have no `thefts`. Nothing
    of the test suspects is in here.

    Raises
    ------
    UsageError
        There is no negative, or the data are of another shape than the spec's inputs, or outside of their box.
    """

    target: Model
    positives: Sequence[Model]
    negatives: Sequence[Model]
    spec: Spec
    data: Tensor
    labels: Tensor | None = None
    cohort: CohortModels | None = None

    def classes(self) -> Tensor:
        """The true classes (n,) of `data`.

        Raises
        ------
        UsageError
            They are not known, or all the same.
        """
        found = [] if self.labels is None else self.labels.unique().tolist()
        if self.labels is None or len(found) < 2:
            got = f"class {found[0]} for all" if found else "none"
            raise UsageError(f"expected examples of at least two known classes, got {got}: give labelled data.")
        return self.labels

    def changed(self, change: Callable[[Model], Model]) -> Ensemble:
        """The same with another form of each model but the cohort's."""
        positives, negatives = (list(map(change, side)) for side in (self.positives, self.negatives))
        return replace(self, target=change(self.target), positives=positives, negatives=negatives)

    def __post_init__(self) -> None:
        _check_side("negative", self.negatives)
        shape = tuple(self.data.shape)
        if shape[1:] != self.spec.input_shape:
            raise UsageError(
                f"expected data of shape (n, {', '.join(map(str, self.spec.input_shape))}), got {shape}: give them as "
                "the models take them, or change the spec."
            )
        if not self.spec.inside(self.data):
            raise UsageError(
                f"expected data in {self.spec.box}, got some in [{self.data.min():g}, {self.data.max():g}]: give them "
                "as the models take them, or change the spec."
            )


class Scheme(Protocol):
    """A way to make a fingerprint. Settings are fields of a frozen dataclass; `construct` does the work."""

    needs: ClassVar[Needs]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Make a fingerprint of the ensemble's target with N = `queries` (at least 1); a function of `seed`."""
        ...


def needs_of(scheme: Scheme) -> Needs:
    """What a scheme needs with its options: the labels alone, where it has an option `labels` that says so."""
    return replace(scheme.needs, answers="labels") if getattr(scheme, "labels", 0) else scheme.needs


def check_queries(queries: int) -> None:
    """Refuse fewer than one query."""
    if queries < 1:
        raise UsageError(f"expected at least 1 query, got {queries}: the paper uses --queries 100.")


def _check_side(side: str, models: Sequence[Model]) -> None:
    if not models:
        raise UsageError(
            f"expected at least one {side} suspect to construct from, got none: build a larger zoo (metav zoo build, "
            "profile cpu)."
        )


def check_form(valid: int, spec: Spec) -> None:
    """Refuse `valid` queries where nothing says which are."""
    if valid and not spec.restricted:
        raise UsageError(
            "expected a table whose spec has steps or one_hot groups for valid=1, got one where each row of the box is "
            "valid: leave the option out."
        )


def check_learning(ensemble: Ensemble, queries: int, *, valid: int) -> None:
    """Refuse what a scheme that learns its queries from both sides can make no fingerprint of.

    Raises
    ------
    UsageError
        There is less than one query, or no stolen model; or `valid` queries are asked for where nothing says which are.
    """
    check_queries(queries)
    _check_side("positive", ensemble.positives)
    check_form(valid, ensemble.spec)


def check_at_least(**options: tuple[int, int]) -> None:
    """Refuse options, each given as (value, least), that are below what they must be at least."""
    for name, (value, low) in options.items():
        if value < low:
            raise UsageError(f"expected {name} of at least {low}, got {value}: change the option.")


def check_flags(**options: int) -> None:
    """Refuse options that are neither 0 nor 1."""
    for name, value in options.items():
        if value not in (0, 1):
            raise UsageError(f"expected {name} of 0 or 1, got {value}: change the option.")


def require(name: str, needs: Needs, spec: Spec) -> None:
    """Refuse models that do not give what a scheme needs.

    Raises
    ------
    UsageError
        One sentence that says what is lacking.
    """
    if lacking := needs.lacking(spec):
        raise UsageError(
            f"expected models with {lacking} for {name}, got ones that answer {spec.input_shape} with {spec.output} of "
            f"shape {spec.output_shape}: choose another scheme (metav schemes)."
        )


def check_use(name: str, needs: Needs, ensemble: Ensemble, queries: int) -> None:
    """Refuse what a scheme that starts from examples can make no fingerprint of: the first lines of its `construct`.

    Raises
    ------
    UsageError
        There is less than one query, or no stolen model for a scheme that learns from them, or the models do not give
        what the scheme needs.
    SuspectError
        The target's answers to the first examples are not finite, or all the same, or come without gradients where
        the scheme needs them.
    """
    check_queries(queries)
    if needs.thefts:
        _check_side("positive", ensemble.positives)
    require(name, needs, ensemble.spec)
    some, asked = ensemble.data[:GLANCE], _logits(ensemble.target) or ensemble.target
    answers = query(asked, some)
    if not torch.isfinite(answers).all():
        raise SuspectError("expected finite answers of the target, got NaN or infinity: check how it was trained.")
    if len(some) > 1 and bool((answers == answers[:1]).all()):
        raise SuspectError(
            f"expected a target whose answers depend on its inputs, got the same answer to {len(some)} examples: "
            "check how it was trained."
        )
    if needs.gradients:
        check_gradients(name, asked, some[:1])


def check_gradients(name: str, target: Model, x: Tensor) -> None:
    """Refuse a target whose answers to `x` (n, *input_shape) have no gradient by them, for a scheme that needs it.

    Raises
    ------
    SuspectError
        The answers do not hang together with the inputs: a server, or rounding or an embedding comes first.
    """
    inputs = x.clone().requires_grad_(True)
    answers = target(inputs)
    if not answers.requires_grad or torch.autograd.grad(answers.sum(), inputs, allow_unused=True)[0] is None:
        raise SuspectError(
            f"expected a target that gives gradients by its inputs for {name}, got one that does not: give the module "
            "itself, with products of one-hot rows for embeddings, or choose a scheme that needs answers alone: cohort."
        )


def log_probabilities(model: Model, x: Tensor) -> Tensor:
    """Log-probabilities (n, classes) of a classifier: its logits up to a constant an input, with their gradient.

    From the logits themselves where the model gives them (a method `logits`), as probabilities round to 0 and 1.

    Raises
    ------
    SuspectError
        They are not finite.
    """
    logits = _logits(model)
    found = logits(x).log_softmax(-1) if logits else model(x).clamp_min(torch.finfo(torch.float32).tiny).log()
    if not torch.isfinite(found).all():
        raise SuspectError("expected finite logits, got NaN or infinity: the model cannot be used.")
    return torch.as_tensor(found)


def _logits(model: Model) -> Model | None:
    """The method `logits` of a model, if it has one; a layer of that name is none."""
    found = getattr(model, "logits", None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def labels(model: Model, x: Tensor) -> Tensor:
    """Classes (n,) that a classifier gives inputs."""
    with torch.no_grad():
        return log_probabilities(model, x).argmax(-1)


def calibrated(
    ensemble: Ensemble, x: Tensor, scorer: Callable[[Tensor], Scorer], provenance: Mapping[str, Any]
) -> Fingerprint:
    """The fingerprint of queries `x` (n, *input_shape) for schemes that come without a threshold.

    Its scorer is that of the target's answers, its threshold `ROUNDING` above the largest rate of the negatives: those
    of the construction, never test suspects.
    """
    made = Fingerprint(queries=x, scorer=scorer(query(ensemble.target, x)), spec=ensemble.spec, provenance=provenance)
    with torch.no_grad():
        rates = [made.score(model(x)) for model in ensemble.negatives]
    return replace(made, threshold=min(max(rates) + ROUNDING, 1.0))
