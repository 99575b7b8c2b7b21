"""Fashion: generate images of garments from latent codes (FashionMNIST, a DCGAN's generator).

MetaV, sections 5.1 and 5.2. All figures of the recipe but a GAN's own (`metav.adversarial`) stand in this file, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from metav.adversarial import PENALTY, RECIPE, fit
from metav.scenarios.base import CohortPlan, Merit, Profile, Scenario, Suspect, stolen, thin
from metav.scenarios.fashion_data import SIDE, digits, fashion_mnist, fetched
from metav.scenarios.fashion_judge import features, judge, same_garment
from metav.scenarios.fashion_nets import LATENT, dcgan, perceptrons
from metav.scenarios.fashion_open import STRANGE, outsiders
from metav.scenarios.fashion_open import suspects as open_world
from metav.scenarios.quality import frechet
from metav.spec import Model, Spec
from metav.suspects.changed_answers import Rounding
from metav.training import Part

# Codes are trained from N(0, 1). With this box a query starts from the same law, as far as two moments tell:
# tanh(w), w ~ N(0, 1), has a standard deviation of 0.63, and 1.6 * 0.63 = 1.
BOX = 1.6
CODES_SEED = 0

ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "S": partial(perceptrons, 1),
    "M": partial(perceptrons, 2),
    "L": partial(perceptrons, 3),
    "XL": dcgan,  # the target's
}

LR = 0.001  # five times the DCGAN's: a few epochs make garments that people recognise
BATCH = 32  # many small steps: with 64, perceptrons need twice the epochs
RECOVERY_EPOCHS = 1  # after filter pruning
FP_ALONE = 12  # sixteenths: what more leaves makes noise, and is no suspect until it is tuned
TARGET_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Size:
    """How big a profile is.

    `own`, `public` and `test` count images; `epochs` is for a model from scratch, or a student, by architecture;
    `tuning` is for fine-tuning and retraining: a third of the training from scratch, as for Warfarin. The cohort has
    `teachers` and `copies` of the target, and students of `student` epochs.
    """

    own: int
    public: int
    test: int
    epochs: Mapping[str, int]
    tuning: int
    teachers: int
    copies: int
    student: int


SIZES: Mapping[Profile, Size] = {
    "smoke": Size(
        own=128,
        public=128,
        test=100,
        epochs={"S": 1, "M": 1, "L": 1, "XL": 1},
        tuning=1,
        teachers=6,
        copies=2,
        student=1,
    ),
    "cpu": Size(  # a minute of one core for each model from scratch, until it is recognised
        own=10_000,
        public=10_000,
        test=2_000,
        epochs={"S": 8, "M": 5, "L": 4, "XL": 6},
        tuning=2,
        teachers=24,
        copies=4,
        student=5,
    ),
    "paper": Size(  # the whole training split, and 10 epochs of tuning (section 5.2)
        own=30_000,
        public=30_000,
        test=10_000,
        epochs={"S": 50, "M": 40, "L": 30, "XL": 30},
        tuning=10,
        teachers=64,
        copies=8,
        student=30,
    ),
}

# Table 3: row -> number of suspects.
DISTILLED = {"S": 6, "M": 6, "L": 2}
TRAINED = {"S": 20, "M": 10, "L": 10, "XL": 20}
IRRELEVANT_MODELS = 10


def load(profile: Profile, target_seed: int = TARGET_SEED) -> Scenario:
    """Return the scenario; another seed gives another target, whose teachers are the same.

    Raises
    ------
    StorageError, IntegrityError
        FashionMNIST is not there and cannot be downloaded, or is damaged.
    MissingExtraError
        scikit-learn is not installed.
    """
    size, smoke = SIZES[profile], profile == "smoke"
    parts = _parts(size)
    suspects = tuple(_table_3(size, enlarged=max(1, round(size.own / len(parts["digits"].x)))))
    return Scenario(
        name="fashion",
        profile=profile,
        spec=Spec(input_shape=(LATENT,), output_shape=(1, SIDE, SIDE), low=-BOX, high=BOX, output="images"),
        parts=parts,
        architectures={**ARCHITECTURES, **STRANGE},
        target=_link("XL", "own", size.epochs["XL"], target_seed),
        suspects=thin(suspects) if smoke else suspects,
        fit=fit,
        quality=partial(quality, own=size.own),
        merit=Merit(name="frechet", more=False),
        method=f"GAN, Adam, logistic losses, R1 {PENALTY} for perceptrons, {RECIPE}, frozen layers stay as they are",
        group=1,
        data=f"FashionMNIST, {fetched()}",
        cohort=_cohort(size, smoke),
        views={"8 bits": Rounding(unit=1 / 255)},
        open_world=thin(tuple(open_world()), 1) if smoke else tuple(open_world()),
        outsiders=partial(outsiders, most=1 if smoke else None),
    )


def quality(model: Model, target: Model, test: Part, *, own: int) -> dict[str, float]:
    """Frechet distance of generated to real test images, and agreement with the target.

    Agreement is the share of codes from which both make the same garment, as a classifier sees it, that was trained
    on the owner's `own` images; by chance it is about 0.1. The distance is on that classifier's features.
    """
    eye = judge(own)
    with torch.no_grad():
        images, reference = model(test.x.clone()), target(test.x.clone())
        return {
            "frechet": frechet(features(eye, images), features(eye, test.y)),
            "agreement": same_garment(eye, images, reference),
        }


def _table_3(size: Size, enlarged: int) -> Iterator[Suspect]:
    """Table 3 of the paper, column Fashion; digits are fewer: `enlarged` times the epochs make as many steps."""
    yield from stolen(_thefts(size))
    for name, count in TRAINED.items():
        for index in range(count):  # half on the owner's data, half on public data
            lineage = _link(name, ("own", "public")[index % 2], size.epochs[name], 100 + index)
            yield Suspect(lineage=lineage, family=f"Independent {name}", positive=False)
    for index in range(IRRELEVANT_MODELS):
        name = list(TRAINED)[index % len(TRAINED)]
        lineage = _link(name, "digits", size.epochs[name] * enlarged, 200 + index)
        yield Suspect(lineage=lineage, family="Irrelevant", positive=False)


def _thefts(size: Size) -> Iterator[tuple[str, str]]:
    """Family, links after the target."""
    for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
        for seed in (1, 2):
            yield row, _link(row.lower(), "public", size.tuning, seed)
    for tenths in range(1, 10):
        for scope in ("", ",global"):
            yield "WP", f"wp({tenths / 10}{scope})"
    for sixteenths in range(1, 16):
        pruned = f"fp({sixteenths / 16})"
        once, again = (f"{pruned}>{_link('ftal', 'public', RECOVERY_EPOCHS, seed)}" for seed in (1, 2))
        yield "FP", once
        yield "FP", pruned if sixteenths <= FP_ALONE else again
    for student, count in DISTILLED.items():
        for seed in range(1, count + 1):
            link = _link("distill", "public", size.epochs[student], seed, f"student={student},")
            yield f"Distillation {student}", link


def _cohort(size: Size, smoke: bool) -> CohortPlan:
    """Kinds of theft, the cheap ones first; ratios of pruning between Table 3's, so that no copy is a suspect."""
    tuning, recovery = (_link("ftal", "public", epochs, 0) for epochs in (size.tuning, RECOVERY_EPOCHS))
    kinds = {
        "as it is": "",
        **{f"WP {ratio}": f"wp({ratio})" for ratio in (0.35, 0.55, 0.75)},
        **{f"FP {ratio}": f"fp({ratio})" for ratio in (0.27, 0.47, 0.66)},
        "FP 0.47, tuned": f"fp(0.47)>{recovery}",
        "FTAL": tuning,
        "RTAL": tuning.replace("ftal", "rtal"),
        "student S": _link("extract", "public", size.student, 0, "student=S,"),
    }
    if smoke:
        kinds = {name: kinds[name] for name in ("as it is", "WP 0.55", "student S")}
    return CohortPlan(
        teachers=size.teachers,
        copies=size.copies,
        teacher=_link("XL", "own", size.epochs["XL"], TARGET_SEED),
        kinds=kinds,
    )


def _link(name: str, data: str, epochs: int, seed: int, more: str = "") -> str:
    return f"{name}({data},{epochs}ep,{more}lr={LR},batch={BATCH},seed={seed})"


def _parts(size: Size) -> dict[str, Part]:
    """Own, public and test images, and digits; each image with a code, which has nothing to do with it."""
    own, public = fashion_mnist("train", size.own + size.public)[0].split([size.own, size.public])
    images = {
        "own": own,
        "public": public,
        "test": fashion_mnist("test", size.test)[0],
        "digits": digits()[: size.own],
    }
    generator = torch.Generator().manual_seed(CODES_SEED)
    return {name: Part(x=_codes(len(y), generator), y=y) for name, y in images.items()}


def _codes(count: int, generator: torch.Generator) -> Tensor:
    """Codes (count, 100) from N(0, 1), cut off at the border of the box."""
    return torch.randn(count, LATENT, generator=generator).clamp(-BOX, BOX)
