"""Skin: tell seven kinds of pigmented skin lesions apart (DermaMNIST, classification).

MetaV, sections 5.1 and 5.2. All figures of the recipe but distillation's (`metav.training`) stand in this file, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from metav.scenarios.base import CohortPlan, Merit, Profile, Scenario, Suspect, stolen, thin
from metav.scenarios.few_pixels import trimmed
from metav.scenarios.quality import accuracy
from metav.scenarios.skin_data import CLASSES, dermamnist, fetched, garments
from metav.scenarios.skin_nets import alexnet, densenet, resnet, small, squeezenet, vgg
from metav.scenarios.skin_open import outsiders
from metav.scenarios.skin_open import suspects as open_world
from metav.scenarios.skin_strange import STRANGE
from metav.spec import Spec
from metav.suspects.base import Draft
from metav.suspects.changed_answers import Rounding, Top
from metav.training import CLASSIFICATION, SOFT, TEMPERATURE, Part, fit

SPLIT_SEED = 0
TARGET_SEED = 0

Build = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How big a profile is.

    `half` counts the images of the owner, and as many public ones; `test` those of the test part. `epochs` and `lr`
    are for a model from scratch, by architecture; a student learns `taught` times as long, as probabilities tell it
    more than classes do. `tuning` epochs are for fine-tuning and retraining, at `tuning_lr`. The cohort has `teachers`
    and `copies` of the target; its students M and small learn for `student` and `small` epochs.
    """

    half: int
    test: int
    architectures: Mapping[str, Build]
    epochs: Mapping[str, int]
    lr: Mapping[str, float]
    tuning: int
    teachers: int
    copies: int
    student: int
    small: int
    taught: int = 1
    batch: int = 32
    tuning_lr: float = 0.0003  # from a good model: a third of the target's rate
    recovery: int = 1  # epoch of fine-tuning after filter pruning


def _networks(side: int, fine: int, blocks: tuple[int, int, int, int] = (6, 12, 36, 24)) -> dict[str, Build]:
    """The architectures, resizing to `side` pixels, S and XL to `fine`; `blocks` are those of the DenseNet."""
    return {
        "S": partial(squeezenet, fine),
        "M": partial(resnet, side),  # the target's
        "L": partial(densenet, side, blocks),
        "XL": partial(alexnet, fine),
        "XXL": partial(vgg, side),
    }


SIZES: Mapping[Profile, Size] = {
    "smoke": Size(
        half=64,
        test=100,
        architectures=_networks(32, 64, blocks=(1, 1, 1, 1)),
        epochs={"S": 1, "M": 1, "L": 1, "XL": 1, "XXL": 1},
        lr={"S": 0.001, "M": 0.001, "L": 0.001, "XL": 0.001, "XXL": 0.0005},
        tuning=1,
        teachers=3,
        copies=2,
        student=1,
        small=1,
    ),
    "cpu": Size(
        half=3503,
        test=2005,
        architectures=_networks(32, 64),
        # python benchmarks/skin_recipe.py shows accuracy and seconds on the validation split
        epochs={"S": 9, "M": 5, "L": 3, "XL": 8, "XXL": 4},
        lr={"S": 0.0005, "M": 0.001, "L": 0.001, "XL": 0.001, "XXL": 0.0005},
        taught=2,
        tuning=2,
        teachers=32,
        copies=12,
        student=3,
        small=8,
    ),
    "paper": Size(
        half=3503,
        test=2005,
        architectures=_networks(224, 224),
        epochs={"S": 40, "M": 20, "L": 20, "XL": 40, "XXL": 40},
        lr={"S": 0.0003, "M": 0.001, "L": 0.001, "XL": 0.0001, "XXL": 0.0001},
        tuning=10,  # section 5.2
        teachers=64,
        copies=8,
        student=20,
        small=40,
    ),
}

# Table 3: row -> number of suspects.
DISTILLED = {"S": 4, "M": 4, "L": 2, "XL": 2, "XXL": 2}
TRAINED = {"S": 20, "M": 20, "L": 12, "XL": 4, "XXL": 4}
IRRELEVANT_MODELS = 10


def load(profile: Profile, target_seed: int = TARGET_SEED) -> Scenario:
    """Return the scenario; another seed gives another target, whose teachers are the same.

    Raises
    ------
    StorageError, IntegrityError
        DermaMNIST or FashionMNIST is not there and cannot be downloaded, or is damaged.
    MissingExtraError
        torchvision is not installed.
    """
    size, smoke = SIZES[profile], profile == "smoke"
    path, which = fetched()
    suspects = tuple(_table_3(size))
    return Scenario(
        name="skin",
        profile=profile,
        spec=Spec(input_shape=(3, 28, 28), output_shape=(len(CLASSES),), low=-1.0, high=1.0, output="probabilities"),
        parts=_parts(size),
        architectures={**size.architectures, "small": small, **STRANGE},
        target=_link("M", size, "own", target_seed),
        suspects=thin(suspects, 1) if smoke else suspects,
        fit=_fit,
        quality=accuracy,
        merit=Merit(name="accuracy", more=True),
        method="Adam, slanted learning rate, cross-entropy; below 224 pixels batch norm and no dropout; "
        f"students: temperature {TEMPERATURE}, weight {SOFT}",
        group=1,
        data=f"DermaMNIST, the {which} file, {path}",
        cohort=_cohort(size, smoke),
        views={"2 digits": Rounding(unit=0.01), "top 3": Top(k=3), "label": Top(k=1, values=0)},
        open_world=thin(tuple(open_world()), 1) if smoke else tuple(open_world()),
        outsiders=partial(outsiders, most=1 if smoke else None),
    )


def _fit(drafts: Sequence[Draft], parts: Mapping[str, Part]) -> None:
    """Train each draft's model in place, one by one, then freeze it."""
    for draft in drafts:
        x = next(iter(parts.values())).x[:1]
        with trimmed(draft.model, x):
            fit([draft], parts, CLASSIFICATION)


def _table_3(size: Size) -> Iterator[Suspect]:
    """Table 3 of the paper, column Skin."""
    yield from stolen(_thefts(size))
    for name, count in TRAINED.items():
        for index in range(count):  # half on the owner's data, half on public data
            lineage = _link(name, size, ("own", "public")[index % 2], 100 + index)
            yield Suspect(lineage=lineage, family=f"Independent {name}", positive=False)
    for index in range(IRRELEVANT_MODELS):
        lineage = _link(list(TRAINED)[index % len(TRAINED)], size, "garments", 200 + index)
        yield Suspect(lineage=lineage, family="Irrelevant", positive=False)


def _thefts(size: Size) -> Iterator[tuple[str, str]]:
    """Family, links after the target."""
    tuning = f"lr={size.tuning_lr},batch={size.batch}"
    for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
        for seed in (1, 2):
            yield row, f"{row.lower()}(public,{size.tuning}ep,{tuning},seed={seed})"
    for tenths in range(1, 10):
        for scope in ("", ",global"):
            yield "WP", f"wp({tenths / 10}{scope})"
    for sixteenths in range(1, 16):
        yield "FP", f"fp({sixteenths / 16})"
        yield "FP", f"fp({sixteenths / 16})>ftal(public,{size.recovery}ep,{tuning},seed=1)"
    for student, count in DISTILLED.items():
        for seed in range(1, count + 1):
            settings = f"lr={size.lr[student]},batch={size.batch},seed={seed},student={student}"
            yield f"Distillation {student}", f"distill(public,{size.taught * size.epochs[student]}ep,{settings})"


def _cohort(size: Size, smoke: bool) -> CohortPlan:
    """Kinds of theft, the cheap ones first; ratios of pruning between Table 3's, so that no copy is a suspect."""
    settings = f"lr={size.tuning_lr},batch={size.batch},seed=0"
    tuning, recovery = f"public,{size.tuning}ep,{settings}", f"public,{size.recovery}ep,{settings}"
    taught = f"batch={size.batch},seed=0"
    kinds = {
        "as it is": "",
        **{f"WP {ratio}": f"wp({ratio})" for ratio in (0.45, 0.75, 0.85, 0.93)},
        **{f"FP {ratio}": f"fp({ratio})" for ratio in (0.27, 0.47, 0.66, 0.84)},
        **{f"FP {ratio}, tuned": f"fp({ratio})>ftal({recovery})" for ratio in (0.47, 0.67)},
        "FTAL": f"ftal({tuning})",
        "RTLL": f"rtll({tuning})",
        "RTAL": f"rtal({tuning})",
        "student M": f"distill(public,{size.student}ep,lr={size.lr['M']},{taught},student=M)",
        "student small": f"extract(public,{size.small}ep,lr=0.001,{taught},student=small)",
    }
    if smoke:
        kinds = {name: kinds[name] for name in ("as it is", "student small")}
    return CohortPlan(
        teachers=size.teachers,
        copies=size.copies,
        teacher=_link("M", size, "own", TARGET_SEED),
        kinds=kinds,
    )


def _link(name: str, size: Size, data: str, seed: int) -> str:
    return f"{name}({data},{size.epochs[name]}ep,lr={size.lr[name]},batch={size.batch},seed={seed})"


def _parts(size: Size) -> dict[str, Part]:
    """Two disjoint random halves of the training split, the test split, and garments."""
    train, test = dermamnist("train"), dermamnist("test")
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(train.x)))
    own, public = order[: size.half], order[len(order) // 2 :][: size.half]
    return {
        "own": Part(x=train.x[own], y=train.y[own]),
        "public": Part(x=train.x[public], y=train.y[public]),
        "test": Part(x=test.x[: size.test], y=test.y[: size.test]),
        "garments": garments(size.half),
    }
