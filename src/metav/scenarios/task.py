"""Your own model as a scenario: what you have of it, and the stolen and independent models that are made from that."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from metav import adversarial, training
from metav.adversarial import PENALTY, RECIPE, Gan
from metav.engine import one_thread, seeded
from metav.errors import UsageError
from metav.scenarios import task_cohort
from metav.scenarios.base import CohortPlan, Merit, Profile, Scenario, Suspect, stolen, thin
from metav.scenarios.quality import accuracy, error, likeness
from metav.scenarios.task_checks import check_answers, check_learns, check_logits, check_new, check_settings
from metav.scenarios.task_models import (
    SAME,
    Classifier,
    Copying,
    answers_with_logits,
    changes_inputs,
    first_unresettable,
    held,
    ready,
    with_discriminator,
    with_weights,
)
from metav.scenarios.task_source import source
from metav.spec import Model, Spec
from metav.stacks import stackable
from metav.storage import canonical_json, digest
from metav.suspects import Draft
from metav.suspects.base import Resettable, all_names, layers, matrices
from metav.suspects.finetuning import last_layers
from metav.training import CLASSIFICATION, Objective, Part, anneal, scaled_error, spread, squared_error

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
LIBRARIES = ("torch", "torchvision", "onnx2torch", "metav")  # whose sources are not the user's
WP_RATIOS, FP_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.125, 0.25, 0.375, 0.5)
SMOKE = 256  # examples of each part at most in the profile smoke
STACKED = 2**21  # values of a part's inputs at most, of which each model that trains side by side has copies
SOME, GLANCE = 8, 64  # examples that show whether a model answers as it should; how a classifier does
METHOD = {
    "probabilities": "Adam, slanted learning rate, cross-entropy, students with temperature",
    "regression": "Adam, slanted learning rate, squared error",
    "images": f"GAN, Adam, logistic losses, R1 {PENALTY}, {RECIPE}, frozen layers stay as they are",
}
OWN_UNITS, WHOLE = ", each value by its spread", ", all matrices of a layer pruned"
QUALITY = {"probabilities": accuracy, "regression": error, "images": likeness}
MERIT = {
    "probabilities": Merit(name="accuracy", more=True),
    "regression": Merit(name="mae", more=False),
    "images": Merit(name="frechet", more=False),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Your model, the data it was made with, and how much of each kind of suspect is made around it.

    `metav zoo build package.module:task`, `metav fingerprint package.module:task` and `metav bench package.module:task`
    take it as they take the paper's scenarios.

    Attributes
    ----------
    name
        A word; its zoo is kept under it.
    target
        Your trained model.
    spec
        Its interface. What the box [low, high] is to your inputs is up to you; queries stay in it.
    own, public, test
        Examples: those you trained on, those an attacker might have (disjoint from yours), and held-out ones. `x` is
        (n, *input_shape), float32; `y` is (n,) classes, int64, or (n, *output_shape), float32. For a generator
        `x` are codes, drawn as it wants them, and `y` as many real images, which have nothing to do with them.
    architectures
        Constructors of untrained modules by name, for students and independent models. The target's own architecture
        with new weights is among them as `same`, where all its layers have `reset_parameters`.
    logits
        Whether your classifiers answer with logits; False if with probabilities.
    epochs, lr, batch
        Training from scratch, and of students: Adam with a slanted learning rate.
    tuning, tuning_lr
        Epochs and rate of fine-tuning and retraining.
    students, independents
        How many of each architecture.
    teachers
        How many models of the target's architecture are trained from other seeds, on your data, for the scheme
        `cohort`: of use where your target was trained as `fit`, `epochs`, `lr` and `batch` say. 0 for none.
    negatives
        Models that you know to be independent, by name: modules, of torchvision or timm for example, or ONNX files.
        Classifiers among them may answer with logits or with probabilities, whatever `logits` says.
    fit
        Trains drafts in place, as `metav.training.fit`, where the default is not for you: cross-entropy or squared
        error, and for images a GAN (`metav.adversarial`), whose discriminator is made for the size of the images
        unless your generators are `metav.adversarial.Gan`s.
    quality
        (model, target, test part) -> named figures, where the default is not for you (`metav.scenarios.quality`):
        accuracy, mean absolute error or a Frechet distance of shrunk images, each with the agreement with the target.
    merit
        Which of these figures counts.

    Raises
    ------
    UsageError
        The parts do not fit together; one sentence says which and how.
    """

    name: str
    target: nn.Module
    spec: Spec
    own: Part
    public: Part
    test: Part
    architectures: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    logits: bool = True
    epochs: int = 20
    lr: float = 0.001
    batch: int = 32
    tuning: int = 3
    tuning_lr: float = 0.0003
    students: int = 2
    independents: int = 8
    teachers: int = 0
    negatives: Mapping[str, nn.Module | str | Path] = field(default_factory=dict)
    fit: Callable[[Sequence[Draft], Mapping[str, Part]], None] | None = None
    quality: Callable[[Model, Model, Part], dict[str, float]] | None = None
    merit: Merit | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        with seeded(0):
            check_answers("the target", lambda: self._wrapped(self.target), self.test.x[:SOME], self.spec)
            check_learns("the target", self.target, self.test.x[:2], self.batch)
            if self.spec.output == "probabilities":
                check_logits("the target", self.target, self.test.x[:GLANCE], gives_logits=self.logits)
            for name, make in self.architectures.items():
                if isinstance(make, nn.Module):
                    raise UsageError(
                        f"expected a function that makes the architecture {name}, got a module: write lambda: "
                        f"{type(make).__name__}(...)."
                    )
                check_answers(f"the architecture {name}", partial(self._made, name), self.test.x[:SOME], self.spec)
                made = check_new(name, make, self.target, self.test.x[:2])
                check_learns(f"the architecture {name}", made, self.test.x[:2], self.batch)
                if self.spec.output == "probabilities":
                    check_logits(f"the architecture {name}", made, self.test.x[:GLANCE], gives_logits=self.logits)
        if twins := [sorted(names - {SAME}) for names in self._drawn.values() if len(names - {SAME}) > 1]:
            raise UsageError(
                f"expected architectures that differ, got the same weights from {' and '.join(twins[0])}: leave one "
                "out, so that no suspect is there twice."
            )

    def scenario(self, profile: Profile = "cpu") -> Scenario:
        """The task with all its suspects; for the profile `smoke` few of each, and one epoch of few examples."""
        smoke, kind = profile == "smoke", self.spec.output
        parts = {"own": self.own, "public": self.public, "test": self.test}
        suspects = tuple(self._suspects(smoke))
        with seeded(0):  # of a discriminator
            models = {"target": self._wrapped(self.target), **{n: self._ready(n, m) for n, m in self.negatives.items()}}
        with seeded(0), one_thread():  # an orthogonal start, say, has other bits on several
            made = {name: make() for name, make in self.architectures.items()}
        unresettable = first_unresettable(self.target)
        usable = kind == "regression" or (kind == "probabilities" and self.logits)
        usable &= self.fit is None and all(part.x.dim() == 2 and part.x.numel() <= STACKED for part in parts.values())
        side_by_side = usable and all(map(stackable, (self.target, *made.values())))
        if kind == "images":
            usual = partial(adversarial.fit, codes=adversarial.given)
        else:
            usual = partial(training.fit, objective=self._objective())
        anew = {} if unresettable else {SAME: self._anew}
        listed = any(_shape(self.target) == _shape(each) for each in made.values())
        alone = "; no new models of the target's architecture, as {} has no reset_parameters"
        return Scenario(
            name=self.name,
            profile=profile,
            spec=self.spec,
            parts={name: part.few(SMOKE) for name, part in parts.items()} if smoke else parts,
            architectures={
                **{name: partial(self._made, name) for name in self.architectures},
                **{name: partial(deepcopy, model) for name, model in models.items()},
                **anew,
            },
            target="ready(target)",
            suspects=thin(suspects, 2) if smoke else suspects,
            fit=self.fit or usual,
            quality=self.quality or QUALITY[kind],
            merit=self.merit or MERIT[kind],
            method=f"{self._method()}; made of {self._made_of(made, models)}",
            data=f"the task {self.name}{alone.format(unresettable) if unresettable and not listed else ''}",
            group=16 if side_by_side else 1,  # others are written one by one, so that a kill loses no more
            cohort=self._cohort(smoke) if self.teachers else None,
        )

    def _objective(self) -> Objective:
        """Cross-entropy, or squared error; of several values by the spread of each, as each has a unit of its own."""
        if self.spec.output == "probabilities":
            return CLASSIFICATION
        loss = partial(scaled_error, spread(self.own.y)) if self._several else squared_error
        return Objective(loss=loss, imitation=partial(anneal, loss), slanted=True)

    @property
    def _several(self) -> bool:
        """Whether an answer of a regression has several values."""
        return self.spec.output == "regression" and math.prod(self.spec.output_shape) > 1

    def _method(self) -> str:
        """How models are trained, in words; a function of the task's own is among what they are made of."""
        words = METHOD[self.spec.output] if self.fit is None else "the task its own"
        more = WHOLE if len(matrices(self.target)) != len(layers(self.target)) else ""
        return words + (OWN_UNITS if self._several else "") + more

    def _made_of(self, made: Mapping[str, nn.Module], given: Mapping[str, nn.Module]) -> str:
        """Names models, training and answers: other ones give other suspects, and so another zoo."""
        facts = [str(self.logits), *(source(each) for each in (self.fit, self.quality) if each is not None)]
        for name, model in sorted({**made, **given}.items()):
            own = [each for each in model.modules() if type(each).__module__.split(".")[0] not in LIBRARIES]
            facts += [name, str(model), digest(held(model), {}), *sorted({source(each) for each in own})]
        text = ADDRESS.sub("", canonical_json(facts))  # of what has no other name: another in each process
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _drawn(self) -> Mapping[str, frozenset[str]]:
        """Names of the architectures whose new models from one seed are the same, by what says so."""
        makers: dict[str, Callable[[], nn.Module]] = {n: partial(self._made, n) for n in self.architectures}
        if not first_unresettable(self.target):
            makers[SAME] = self._anew
        found: dict[str, frozenset[str]] = {}
        for name, make in makers.items():
            with seeded(0), one_thread():
                model = make()
            key = f"{model}{digest(held(model), {})}"
            found[key] = found.get(key, frozenset()) | {name}
        return found

    @cached_property
    def _listed(self) -> list[str]:
        """Architectures of students and independent models: the target's own too, unless it is among those given."""
        return [*([SAME] if frozenset({SAME}) in self._drawn.values() else []), *self.architectures]

    def _suspects(self, smoke: bool) -> Iterator[Suspect]:
        """As Table 3 of the paper, as far as this task has what it takes, and nothing twice under two names."""
        tuned, study = self._settings(smoke)
        yield from stolen(self._thefts(tuned, study))
        for name in self._listed:
            for index in range(self.independents):
                lineage = f"{name}({('own', 'public')[index % 2]},{study},seed={100 + index})"
                yield Suspect(lineage=lineage, family=f"Independent {name}", positive=False)
        for name in self.negatives:
            yield Suspect(lineage=f"ready({name})", family="Ready", positive=False)

    def _thefts(self, tuned: str, study: str) -> Iterator[tuple[str, str]]:
        """Family, links after the target."""
        for row in self._tunings:
            for seed in (1, 2):
                yield row, f"{row.lower()}(public,{tuned},seed={seed})"
        for ratio in WP_RATIOS:
            for scope in ("",) if len(matrices(self.target)) == 1 else ("", ",global"):
                yield "WP", f"wp({ratio}{scope})"
        for ratio in task_cohort.distinct(self.target, FP_RATIOS):
            yield "FP", f"fp({ratio})"
            yield "FP", f"fp({ratio})>ftal(public,{tuned},seed=1)"
        for name in self._listed:
            for seed in range(1, self.students + 1):
                yield f"Distillation {name}", f"distill(public,{study},seed={seed},student={name})"

    @cached_property
    def _tunings(self) -> list[str]:
        """Rows of Table 3 that train the target further: of one layer, the last and all are the same."""
        one = last_layers(self.target, 1) == all_names(self.target)
        rows = ["FTAL", "RTAL"] if one else ["FTLL", "FTAL", "RTLL", "RTAL"]
        anew = isinstance(layers(self.target)[-1][1], Resettable)
        return rows if anew else [row for row in rows if row.startswith("FT")]

    def _settings(self, smoke: bool) -> tuple[str, str]:
        """Of fine-tuning, and of a training from scratch."""
        tuned = f"{1 if smoke else self.tuning}ep,lr={self.tuning_lr},batch={self.batch}"
        return tuned, f"{1 if smoke else self.epochs}ep,lr={self.lr},batch={self.batch}"

    def _cohort(self, smoke: bool) -> CohortPlan:
        tuned, study = self._settings(smoke)
        return task_cohort.plan(
            f"{SAME}(own,{study},seed=0)",
            min(self.teachers, 3) if smoke else self.teachers,
            tunings=[row for row in self._tunings if row != "FTLL"],
            tuned=tuned,
            study=study,
            students=self._listed[: 1 if smoke else None],
            filters=task_cohort.filter_ratio(self.target, FP_RATIOS),
        )

    @cached_property
    def _changing(self) -> dict[str, bool]:
        """Whether models of an architecture change their inputs in place, once one was asked."""
        return {}

    def _wrapped(self, model: nn.Module, architecture: str = "") -> nn.Module:
        changing = self._changing.get(architecture)
        if changing is None:
            changing = not isinstance(model, Gan) and changes_inputs(model, self.test.x[:2])
            if architecture:  # others are asked one by one
                self._changing[architecture] = changing
        if changing:
            model = Copying(model)
        if self.spec.output == "probabilities":
            return Classifier(model, gives_logits=self.logits)
        if self.spec.output == "images" and self.fit is None:
            return with_discriminator(model, self.spec)
        return model

    def _ready(self, name: str, negative: nn.Module | str | Path) -> nn.Module:
        """A negative as it is used; whether it answers with logits is seen from its answers."""
        model = ready(negative)
        check_answers(f"the negative {name}", lambda: model, self.test.x[:SOME], self.spec)
        if digest(held(model), {}) == digest(held(self.target), {}):
            raise UsageError(f"expected a negative that is independent of the target, got it as {name}: leave it out.")
        if self.spec.output == "probabilities":
            logits = answers_with_logits(model, self.test.x[:GLANCE])
            return Classifier(Copying(model) if changes_inputs(model, self.test.x[:2]) else model, gives_logits=logits)
        return self._wrapped(model)

    def _made(self, architecture: str) -> nn.Module:
        with torch.device("cpu"):  # where a zoo reads shapes alone, others' constructors may want values
            return self._wrapped(self.architectures[architecture](), architecture)

    def _anew(self) -> nn.Module:
        """The target's architecture with new weights."""
        with torch.device("cpu"):  # as in `_made`
            model = self._wrapped(deepcopy(self.target), SAME).requires_grad_(True)
            for module in with_weights(model):
                if isinstance(module, Resettable):
                    module.reset_parameters()
        return model


def _shape(model: nn.Module) -> tuple[str, list[tuple[str, torch.Size]]]:
    """What models of one architecture have in common: kinds of layers, names and shapes of what they hold."""
    return str(model), [(name, value.shape) for name, value in model.state_dict().items()]
