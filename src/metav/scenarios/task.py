"""Your own model as a scenario: what you have of it, and the stolen and independent models that are made from that."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CellType
from typing import Any

import torch
from torch import nn

from metav import adversarial, training
from metav.adversarial import Recipe
from metav.errors import UsageError
from metav.scenarios import task_cohort
from metav.scenarios.base import LEAST_TEACHERS, CohortPlan, Merit, Profile, Scenario, Suspect, thin
from metav.scenarios.quality import accuracy, error, likeness
from metav.scenarios.task_checks import check_answers, check_apart, check_logits, check_part
from metav.scenarios.task_models import (
    PENALTY,
    Classifier,
    answers_with_logits,
    ready,
    with_discriminator,
)
from metav.spec import Model, Spec
from metav.stacks import stackable
from metav.storage import canonical_json, digest
from metav.suspects import Draft
from metav.suspects.base import Resettable, computed_weights, layers, seeded
from metav.training import Objective, Part, anneal, class_error, soften, squared_error

FIXED = (bool, int, float, str, bytes, tuple, frozenset)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
LIBRARIES = ("torch", "torchvision", "onnx2torch")  # whose sources are not the user's
SAME = "same"  # the target's architecture, from scratch
TEMPERATURE, SOFT = 4.0, 0.9  # of students of classifiers (Hinton et al., 2015)
WP_RATIOS, FP_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.125, 0.25, 0.375, 0.5)
GLANCE = 64  # examples that show how a classifier answers
GAN = Recipe(betas=(0.5, 0.999), average=0.99, imitation=30.0)  # as for Fashion
METHOD = {
    "probabilities": "Adam, slanted learning rate, cross-entropy, students with temperature",
    "regression": "Adam, slanted learning rate, squared error",
    "images": f"GAN, Adam, logistic losses, R1 {PENALTY}, {GAN}, frozen layers stay as they are",
}
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
        for name in (self.name, *self.architectures, *self.negatives):
            if re.fullmatch(r"[A-Za-z][\w-]*", name) is None or name in ("target", "ready", SAME):
                raise UsageError(
                    f"expected a word for the name of a task, an architecture or a model, got {name!r}: begin with a "
                    f"letter, and leave target, ready and {SAME} to metav."
                )
        if both := sorted(self.architectures.keys() & self.negatives.keys()):
            raise UsageError(
                f"expected other names for negatives than for architectures, got {both[0]!r} for both: rename one."
            )
        for name, part in (("own", self.own), ("public", self.public), ("test", self.test)):
            check_part(name, part, self.spec)
        check_apart({"own": self.own, "public": self.public, "test": self.test})
        for count, least in (("epochs", 1), ("tuning", 1), ("batch", 1), ("students", 0), ("independents", 0)):
            if (given := getattr(self, count)) < least:
                raise UsageError(f"expected {count} of at least {least}, got {given}: change the number.")
        if (self.quality is None) != (self.merit is None):
            raise UsageError("expected quality and merit, or neither, got one of them: merit is one of its figures.")
        if self.teachers != 0 and self.teachers < LEAST_TEACHERS:
            raise UsageError(
                f"expected 0 or at least {LEAST_TEACHERS} teachers, got {self.teachers}: change the number."
            )
        if (layer := computed_weights(self.target)) is not None:
            raise UsageError(
                f"expected a target whose layers own their weights, got one whose layer {layer!r} computes them "
                "(weight_norm, spectral_norm), so that it cannot be pruned: bake them in, with "
                "torch.nn.utils.parametrize.remove_parametrizations for example."
            )
        if self.teachers and not _resettable(self.target):
            raise UsageError(
                "expected a target whose layers all have reset_parameters for teachers, got one that has others: add "
                "it to them, or leave teachers out."
            )
        if not self.negatives and not (self.independents and (self.architectures or _resettable(self.target))):
            raise UsageError(
                "expected models that are independent of the target, got none: give independents of at least 1 and "
                "architectures (the target's own needs reset_parameters of all its layers), or negatives."
            )
        with seeded(0):
            check_answers("the target", lambda: self._wrapped(self.target), self.test.x[:2], self.spec)
            if self.spec.output == "probabilities":
                check_logits(self.target, self.test.x[:GLANCE], gives_logits=self.logits)
            for name, make in self.architectures.items():
                if isinstance(make, nn.Module):
                    raise UsageError(
                        f"expected a function that makes the architecture {name}, got a module: write lambda: "
                        f"{type(make).__name__}(...)."
                    )
                check_answers(f"the architecture {name}", partial(self._made, make), self.test.x[:2], self.spec)

    def scenario(self, profile: Profile = "cpu") -> Scenario:
        """The task with all its suspects; for the profile `smoke` one epoch and few of each."""
        smoke, kind = profile == "smoke", self.spec.output
        classes = kind == "probabilities"
        suspects = tuple(self._suspects(smoke))
        objective = Objective(
            loss=class_error if classes else squared_error,
            imitation=partial(soften, TEMPERATURE, SOFT) if classes else partial(anneal, squared_error),
            outputs=training.logits if classes else training.direct,
            decay=True,
            labelled=partial(torch.argmax, dim=-1) if classes else torch.clone,
        )
        with seeded(0):  # of a discriminator
            models = {"target": self._wrapped(self.target), **{n: self._ready(n, m) for n, m in self.negatives.items()}}
        with seeded(0):
            made = {name: make() for name, make in self.architectures.items()}
        side_by_side = self.fit is None and kind == "regression" and all(map(stackable, (self.target, *made.values())))
        usual = partial(training.fit, objective=objective)
        if kind == "images":
            usual = partial(adversarial.fit, recipe=GAN, codes=adversarial.given)
        anew = {SAME: self._anew} if _resettable(self.target) else {}
        return Scenario(
            name=self.name,
            profile=profile,
            spec=self.spec,
            parts={"own": self.own, "public": self.public, "test": self.test},
            architectures={
                **{name: partial(self._made, make) for name, make in self.architectures.items()},
                **{name: partial(deepcopy, model) for name, model in models.items()},
                **anew,
            },
            target="ready(target)",
            suspects=thin(suspects, 2) if smoke else suspects,
            fit=self.fit or usual,
            quality=self.quality or QUALITY[kind],
            merit=self.merit or MERIT[kind],
            method=f"{METHOD[kind] if self.fit is None else 'the task its own'}; made of {self._made_of(made, models)}",
            data=f"the task {self.name}",
            group=16 if side_by_side else 1,  # others are written one by one, so that a kill loses no more
            cohort=self._cohort(smoke) if self.teachers else None,
        )

    def _made_of(self, made: Mapping[str, nn.Module], given: Mapping[str, nn.Module]) -> str:
        """Names models, training and answers: other ones give other suspects, and so another zoo."""
        facts = [str(self.logits), *(_source(each) for each in (self.fit, self.quality) if each is not None)]
        for name, model in sorted({**made, **given}.items()):
            own = {type(each) for each in model.modules() if type(each).__module__.split(".")[0] not in LIBRARIES}
            facts += [name, str(model), digest(model.state_dict(), {}), *sorted(_source(each) for each in own)]
        text = ADDRESS.sub("", canonical_json(facts))  # of what has no other name: another in each process
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _suspects(self, smoke: bool) -> Iterator[Suspect]:
        """As Table 3 of the paper, as far as this task has what it takes."""
        tuned, study = self._settings(smoke)
        for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
            for seed in (1, 2):
                yield Suspect(lineage=f"target>{row.lower()}(public,{tuned},seed={seed})", family=row, positive=True)
        for ratio in WP_RATIOS:
            for pruned in (f"target>wp({ratio})", f"target>wp({ratio},global)"):
                yield Suspect(lineage=pruned, family="WP", positive=True)
        for ratio in FP_RATIOS if _convolves(self.target) else ():
            pruned = f"target>fp({ratio})"
            yield Suspect(lineage=pruned, family="FP", positive=True)
            yield Suspect(lineage=f"{pruned}>ftal(public,{tuned},seed=1)", family="FP", positive=True)
        architectures = [*([SAME] if _resettable(self.target) else []), *self.architectures]
        for name in architectures:
            for seed in range(1, self.students + 1):
                link = f"distill(public,{study},seed={seed},student={name})"
                yield Suspect(lineage=f"target>{link}", family=f"Distillation {name}", positive=True)
        for name in architectures:
            for index in range(self.independents):
                lineage = f"{name}({('own', 'public')[index % 2]},{study},seed={100 + index})"
                yield Suspect(lineage=lineage, family=f"Independent {name}", positive=False)
        for name in self.negatives:
            yield Suspect(lineage=f"ready({name})", family="Ready", positive=False)

    def _settings(self, smoke: bool) -> tuple[str, str]:
        """Of fine-tuning, and of a training from scratch."""
        tuned = f"{1 if smoke else self.tuning}ep,lr={self.tuning_lr},batch={self.batch}"
        return tuned, f"{1 if smoke else self.epochs}ep,lr={self.lr},batch={self.batch}"

    def _cohort(self, smoke: bool) -> CohortPlan:
        tuned, study = self._settings(smoke)
        return task_cohort.plan(
            f"{SAME}(own,{study},seed=0)",
            min(self.teachers, 3) if smoke else self.teachers,
            tuned=tuned,
            study=study,
            students=[SAME, *self.architectures][: 1 if smoke else None],
            filters=task_cohort.filter_ratio(self.target, FP_RATIOS),
        )

    def _wrapped(self, model: nn.Module) -> nn.Module:
        if self.spec.output == "probabilities":
            return Classifier(model, gives_logits=self.logits)
        if self.spec.output == "images" and self.fit is None:
            return with_discriminator(model, self.spec)
        return model

    def _ready(self, name: str, negative: nn.Module | str | Path) -> nn.Module:
        """A negative as it is used; whether it answers with logits is seen from its answers."""
        model = ready(negative)
        check_answers(f"the negative {name}", lambda: model, self.test.x[:2], self.spec)
        if self.spec.output == "probabilities":
            return Classifier(model, gives_logits=answers_with_logits(model, self.test.x[:GLANCE]))
        return self._wrapped(model)

    def _made(self, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.device("cpu"):  # where a zoo reads shapes alone, others' constructors may want values
            return self._wrapped(make())

    def _anew(self) -> nn.Module:
        """The target's architecture with new weights."""
        with torch.device("cpu"):  # as in `_made`
            model = self._wrapped(deepcopy(self.target)).requires_grad_(True)
            for module in _with_weights(model):
                if isinstance(module, Resettable):
                    module.reset_parameters()
        return model


def _source(code: Any) -> str:
    """The source of a function, with the values that it was made with; of an object that of its class, with its own.

    Global variables that a function reads are not in it, nor what it holds besides numbers, words and code.
    """
    if isinstance(code, partial):
        return f"{_source(code.func)} {_held(code.args)} {_held(code.keywords)}"
    if inspect.ismethod(code):
        return f"{_source(code.__func__)} {_source(code.__self__)}"
    if inspect.isfunction(code):
        cells = [cell.cell_contents for cell in code.__closure__ or () if cell != CellType()]
        return f"{_text(code)} {_held(code.__defaults__)} {_held(code.__kwdefaults__)} {_held(cells)}"
    if inspect.isclass(code) or not hasattr(code, "__dict__"):
        return _text(code)
    settings = {name: value for name, value in vars(code).items() if isinstance(value, FIXED)}  # others may change
    return f"{_text(type(code))} {_held(settings)}"


def _held(value: Any) -> str:
    """A value that says the same in each process."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_held, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_held, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_held(key)}: {_held(each)}' for key, each in value.items()))}}}"
    if isinstance(value, FIXED) or value is None:
        return repr(value)
    return _text(value) if inspect.isroutine(value) or inspect.isclass(value) else type(value).__qualname__


def _text(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return str(getattr(code, "__qualname__", type(code).__qualname__))


def _with_weights(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that own parameters or statistics of their own."""
    return (m for m in model.modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)])


def _resettable(model: nn.Module) -> bool:
    return all(isinstance(module, Resettable) for module in _with_weights(model))


def _convolves(model: nn.Module) -> bool:
    return any(hasattr(layer, "kernel_size") for _, layer in layers(model))
