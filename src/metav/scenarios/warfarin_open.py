"""Warfarin's open world: models of kinds that neither zoo nor cohort holds, for tests alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metav.scenarios.base import Subject, Suspect, mixtures, stolen
from metav.scenarios.warfarin_formulas import formulas
from metav.spec import Model
from metav.training import Part

BATCH = "batch=64"

# Independent networks: family, architecture, epochs and settings; each on the owner's and on public data.
NETWORKS = [
    ("other activation", "silu-64-64", "40ep,lr=0.002"),
    ("other activation", "silu-256", "40ep,lr=0.002,loss=mse"),
    ("other activation", "elu-50", "30ep,lr=0.002"),
    ("other activation", "elu-128-128", "30ep,lr=0.002,loss=huber"),
    ("other activation", "softplus-64", "50ep,lr=0.002"),
    ("other activation", "softplus-64-64", "40ep,lr=0.002"),
    ("other activation", "sine-64", "30ep,lr=0.002"),
    ("other activation", "sine-64-64", "30ep,lr=0.002,loss=mse"),
    ("other activation", "selu-48-48-48", "30ep,lr=0.002"),
    ("other structure", "residual", "30ep,lr=0.002"),
    ("other structure", "radial", "60ep,lr=0.002"),
    ("other structure", "maxout-40", "40ep,lr=0.002"),
    ("other structure", "maxout-40-40", "30ep,lr=0.002"),
    ("other training", "S", "60ep,lr=0.001"),
    ("other training", "S", "6ep,lr=0.003"),
    ("other training", "S", "100ep,lr=0.0005,optimiser=sgd"),
    ("other training", "relu-500", "40ep,lr=0.002,loss=mse"),
    ("other training", "relu-20", "30ep,lr=0.002"),
    ("other training", "relu-200-dropout", "50ep,lr=0.002,decay=0.5"),
]

# Students of teachers that are not the target, but trained on the owner's data as it was.
THIRD_PARTY = [
    ("S", "S"),
    ("silu-64-64", "elu-50"),
    ("S", "silu-64-64"),
    ("S", "S"),
    ("silu-64-64", "silu-64-64"),
    ("M", "M"),
]

# Thefts: family, links after the target.
THEFTS = [
    *(
        ("extraction, other activation", f"extract(public,{settings},{BATCH},seed=1,student={student})")
        for student, settings in (
            ("silu-128", "40ep,lr=0.002"),
            ("elu-64-64", "40ep,lr=0.002"),
            ("softplus-64", "50ep,lr=0.002"),
            ("sine-64", "30ep,lr=0.002"),
            ("maxout-40", "40ep,lr=0.002"),
        )
    ),
    *(
        ("extraction, other inputs", f"extract({data},{settings},{BATCH},seed=1,student={student})")
        for data, student, settings in (
            ("box", "silu-128", "40ep,lr=0.002"),
            ("box", "elu-50", "40ep,lr=0.002"),
            ("noisy", "S", "40ep,lr=0.002"),
            ("noisy", "silu-128", "40ep,lr=0.002"),
            ("mixed", "elu-50", "40ep,lr=0.002"),
            ("corners", "S", "40ep,lr=0.002"),
        )
    ),
    ("poor student", f"distill(public,40ep,lr=0.002,{BATCH},seed=1,student=silu-128)"),
    ("poor student", f"extract(few,80ep,lr=0.002,{BATCH},seed=1,student=S)"),
    ("poor student", f"extract(public,50ep,lr=0.002,{BATCH},seed=1,student=relu-20,loss=mse)"),
    *(
        ("other fine-tuning", f"ftal(public,{settings},{BATCH},seed=1)")
        for settings in (
            "15ep,lr=0.001,loss=mse",
            "15ep,lr=0.001,loss=quantile",
            "30ep,lr=0.001,decay=0.3",
            "10ep,lr=0.003",
            "10ep,lr=0.0005,optimiser=sgd",
            "10ep,lr=0.001,adversarial=0.1",
        )
    ),
    *(("fine-pruning", f"fineprune(public,10ep,lr=0.001,{BATCH},seed=1,dormant={share})") for share in (0.5, 0.8)),
    ("pruned and tuned", f"wp(0.5)>ftal(public,10ep,lr=0.001,{BATCH},seed=1)"),
    ("pruned and tuned", f"wp(0.8)>ftal(public,10ep,lr=0.001,{BATCH},seed=1)"),
    ("fewer bits", "quantise(8)"),
    ("fewer bits", "quantise(4)"),
    ("weight noise", "jitter(0.1,seed=1)"),
    ("weight noise", f"jitter(0.3,seed=1)>ftal(public,3ep,lr=0.001,{BATCH},seed=1)"),
    ("changed answers", "rounded(1)"),
    ("changed answers", "rounded(5)"),
    ("changed answers", "noisy(2,seed=1)"),
    ("changed answers", "clipped(low=10,high=70)"),
    ("changed answers", "rescaled(scale=1.1,shift=2)"),
    ("changed inputs", "squeezed(0.1)"),
]


def suspects() -> Iterator[Suspect]:
    """The open world's networks, by lineage."""
    for index, (family, architecture, settings) in enumerate(NETWORKS):
        for data in ("own", "public"):
            lineage = f"{architecture}({data},{settings},{BATCH},seed={500 + index})"
            yield Suspect(lineage=lineage, family=family, positive=False)
    for index, (teacher, student) in enumerate(THIRD_PARTY):
        root = f"{teacher}(own,60ep,lr=0.003,{BATCH},seed={600 + index})"
        links = f"extract(public,30ep,lr=0.002,{BATCH},seed={600 + index},student={student})"
        yield Suspect(lineage=f"{root}>{links}", family="third party's student", positive=False)
    yield from stolen(THEFTS)


def outsiders(target: Model, part: Callable[[str], Part], most: int | None = None) -> Iterator[Subject]:
    """Models that are no networks: independent ones, extractions of `target`, mixtures, a constant.

    They are fitted anew by each call; `most` limits the kinds of each sort.
    """
    public, noisy = part("public"), part("noisy")
    with torch.no_grad():
        answers, noisy_answers = target(public.x), target(noisy.x)
    for name, make in islice(_estimators().items(), most):
        for data in ("own", "public"):
            yield _fitted(f"{name}({data})", "no network", False, make(), part(data).x, part(data).y)
    for name, make in islice(_extractors().items(), most):
        yield _fitted(f"{name} of answers", "extraction, no network", True, make(), public.x, answers)
    made = _extractors()["gradient boosting"]()
    yield _fitted("gradient boosting, noisy inputs", "extraction, no network", True, made, noisy.x, noisy_answers)
    median = public.y.median()
    yield Subject(name="median", family="constant", positive=False, model=lambda x: median.expand(len(x), 1))
    yield from islice(formulas(), most)
    other = _fitted("", "", False, _estimators()["perceptron, tanh"](), public.x, public.y).model
    yield from mixtures(target, other)


def _fitted(name: str, family: str, positive: bool, estimator: Any, x: Tensor, y: Tensor) -> Subject:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some stop before they converge: their iterations are limited on purpose
        estimator.fit(x.numpy(), y.numpy().ravel())

    def model(x: Tensor) -> Tensor:
        found = np.asarray(estimator.predict(x.detach().numpy()), dtype=np.float32)
        return torch.from_numpy(found.reshape(-1, 1))

    return Subject(name=name, family=family, positive=positive, model=model)


def _estimators() -> Mapping[str, Callable[[], Any]]:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import ElasticNet, HuberRegressor, QuantileRegressor, RidgeCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    gaussian = 1.0 * RBF(5.0) + WhiteKernel(1.0)
    quadratic = PolynomialFeatures(2, interaction_only=True)
    return {
        "perceptron, tanh": lambda: MLPRegressor(
            hidden_layer_sizes=(50,), activation="tanh", alpha=1.0, max_iter=60, random_state=0
        ),
        "perceptron, lbfgs": lambda: MLPRegressor(
            hidden_layer_sizes=(30,), solver="lbfgs", alpha=10.0, max_iter=200, random_state=0
        ),
        "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=0),
        "gradient boosting, absolute": lambda: HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=60, random_state=0
        ),
        "extra trees": lambda: ExtraTreesRegressor(100, min_samples_leaf=3, random_state=0),
        "gaussian process": lambda: GaussianProcessRegressor(gaussian, optimizer=None, normalize_y=True),
        "laplacian kernel": lambda: KernelRidge(kernel="laplacian", alpha=1.0, gamma=0.02),
        "quadratic kernel": lambda: KernelRidge(kernel="poly", degree=2, alpha=5.0),
        "elastic net": lambda: ElasticNet(alpha=0.05),
        "median regression": lambda: QuantileRegressor(alpha=0.01, solver="highs"),
        "huber regression": lambda: HuberRegressor(max_iter=500),
        "quadratic": lambda: make_pipeline(quadratic, RidgeCV([30.0, 300.0])),
        "partial least squares": lambda: PLSRegression(3),
    }


def _extractors() -> Mapping[str, Callable[[], Any]]:
    """Estimators that follow a target's answers closely: with less smoothing than is good for noisy doses."""
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import RidgeCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    return {
        "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=0, max_iter=300),
        "extra trees": lambda: ExtraTreesRegressor(100, random_state=0),
        "laplacian kernel": lambda: KernelRidge(kernel="laplacian", alpha=0.05, gamma=0.02),
        "quadratic": lambda: make_pipeline(PolynomialFeatures(2, interaction_only=True), RidgeCV([1.0, 10.0])),
        "perceptron, tanh": lambda: MLPRegressor(
            hidden_layer_sizes=(80,), activation="tanh", max_iter=150, random_state=0
        ),
    }
