"""Skin's open world: models of kinds that neither zoo nor cohort holds, for tests alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from metav.scenarios.base import Subject, Suspect, mixtures, stolen
from metav.scenarios.skin_data import CLASSES
from metav.spec import Model
from metav.stacks import in_batches
from metav.training import Part

# Epochs and learning rates of the strange networks.
RECIPES = {
    "mixer": "12ep,lr=0.001",
    "transformer": "12ep,lr=0.001",
    "grouped": "10ep,lr=0.001",
    "plain": "12ep,lr=0.001",
    "separable": "12ep,lr=0.002",
    "perceptron": "12ep,lr=0.0005",
}
# Independent networks of the zoo's architectures, trained otherwise: architecture, settings.
OTHERWISE = [
    ("M", "3ep,lr=0.0005"),
    ("M", "6ep,lr=0.02,optimiser=sgd"),
    ("M", "6ep,lr=0.001,decay=0.5"),
    ("M", "6ep,lr=0.001,adversarial=0.03"),
]
THIRD_PARTY = ["mixer", "grouped", "plain", "separable"]  # students of M that is not the target

TUNING = "batch=32,seed=SEED"  # each theft has one of its own
# Thefts: family, links after the target.
THEFTS = [
    *(
        ("extraction, other network", f"extract(public,{settings},{TUNING},student={student})")
        for student, settings in RECIPES.items()
    ),
    *(
        ("labels alone", f"copycat(public,{RECIPES[student]},{TUNING},student={student})")
        for student in ("grouped", "plain", "separable")
    ),
    *(
        ("extraction, other images", f"extract({data},{RECIPES[student]},{TUNING},student={student})")
        for data, student in (("noisy", "grouped"), ("mixed", "separable"), ("garments", "grouped"))
    ),
    *(
        ("other fine-tuning", f"ftal(public,{settings},{TUNING})")
        for settings in (
            "3ep,lr=0.0003,adversarial=0.03",
            "3ep,lr=0.01,optimiser=sgd",
            "3ep,lr=0.0005,decay=0.5",
        )
    ),
    ("pruned and tuned", f"wp(0.8)>ftal(public,3ep,lr=0.0003,{TUNING})"),
    *(("fine-pruning", f"fineprune(public,3ep,lr=0.0003,{TUNING},dormant={share})") for share in (0.5, 0.8)),
    ("fewer bits", "quantise(8)"),
    ("fewer bits", "quantise(5)"),
    ("weight noise", "jitter(0.1,seed=1)"),
    ("changed answers", "rounded(0.01)"),
    ("changed answers", "rounded(0.1)"),
    ("changed answers", "tempered(2)"),
    ("changed answers", "noisy(0.02,seed=1)>tempered(1)"),
    ("changed images", "blurred(1)"),
    ("changed images", "compressed(50)"),
    ("changed images", "squeezed(0.125)"),
]


def suspects() -> Iterator[Suspect]:
    """The open world's networks, by lineage."""
    for index, (architecture, settings) in enumerate(RECIPES.items()):
        for data, first in (("own", 500), ("public", 510)):
            for seed in (first + index, first + 20 + index):
                lineage = f"{architecture}({data},{settings},batch=32,seed={seed})"
                yield Suspect(lineage=lineage, family="other network", positive=False)
    for index, (architecture, settings) in enumerate(OTHERWISE):
        lineage = f"{architecture}(own,{settings},batch=32,seed={540 + index})"
        yield Suspect(lineage=lineage, family="other training", positive=False)
    for index, student in enumerate(THIRD_PARTY):
        links = f"extract(public,{RECIPES[student]},batch=32,seed={560 + index},student={student})"
        teacher = f"M(own,6ep,lr=0.001,batch=32,seed={560 + index // 2})"
        yield Suspect(lineage=f"{teacher}>{links}", family="third party's student", positive=False)
    yield from stolen((family, links.replace("SEED", str(seed))) for seed, (family, links) in enumerate(THEFTS, 1))


def outsiders(target: Model, part: Callable[[str], Part], most: int | None = None) -> Iterator[Subject]:
    """Models that are no networks: independent ones on pixels, extractions of `target`, mixtures, constants.

    They are fitted anew by each call; `most` limits the kinds of each sort.
    """
    public = part("public")
    with torch.no_grad():
        answers = in_batches(target, public.x).argmax(1)
    for name, make in islice(_estimators(0).items(), most):
        for data in ("own", "public"):
            yield _fitted(f"{name}({data})", "no network", False, make(), part(data).x, part(data).y)
    for name, make in islice(_estimators(1).items(), most and 1):
        yield _fitted(f"{name} of answers", "extraction, no network", True, make(), public.x, answers)
    shares = public.y.bincount(minlength=len(CLASSES)) / len(public.y)
    for name, constant in (("frequencies", shares), ("even", torch.full_like(shares, 1 / len(shares)))):
        yield Subject(name=name, family="constant", positive=False, model=_constantly(constant))
    other = _fitted("", "", False, _estimators(0)["nearest neighbours"](), public.x, public.y).model
    yield from mixtures(target, other)


def _constantly(answer: Tensor) -> Model:
    return lambda x: answer.expand(len(x), -1)


def _fitted(name: str, family: str, positive: bool, estimator: Any, x: Tensor, y: Tensor) -> Subject:
    estimator.fit(x.flatten(1).numpy(), y.numpy())
    classes = torch.from_numpy(estimator.classes_).long()

    def model(x: Tensor) -> Tensor:
        found = torch.zeros(len(x), len(CLASSES))
        found[:, classes] = torch.from_numpy(estimator.predict_proba(x.detach().flatten(1).numpy())).float()
        return found

    return Subject(name=name, family=family, positive=positive, model=model)


def _estimators(seed: int) -> Mapping[str, Callable[[], Any]]:
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    def on_components(estimator: Any) -> Any:
        return make_pipeline(PCA(50, random_state=seed), estimator)

    return {
        "random forest": lambda: RandomForestClassifier(100, random_state=seed),
        "extra trees": lambda: ExtraTreesClassifier(100, min_samples_leaf=2, random_state=seed),
        "logistic regression": lambda: on_components(LogisticRegression(max_iter=500)),
        "discriminant": lambda: on_components(LinearDiscriminantAnalysis()),
        "naive bayes": lambda: on_components(GaussianNB()),
        "nearest neighbours": lambda: on_components(KNeighborsClassifier(15)),
    }
