"""The conformance check passes what conforms, and names what does not: one broken scheme for each property."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import tiny
from metav import schemes
from metav.fingerprint import Fingerprint
from metav.schemes.base import Needs
from metav.schemes.points import starts
from metav.scorers import LabelAgreement
from metav.testing import check_scheme
from metav.verification import query


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Real examples; conforms. Broken schemes do something more before or after."""

    needs: ClassVar[Needs] = Needs(answers="labels", gradients=False)

    def construct(self, ensemble, *, queries, seed):
        self.before(ensemble)
        x = starts(ensemble, queries, torch.Generator().manual_seed(seed))
        return self.after(ensemble, x)

    def before(self, ensemble):
        pass

    def after(self, ensemble, x):
        return Fingerprint(queries=x, scorer=LabelAgreement.of(query(ensemble.target, x)), spec=ensemble.spec)


@pytest.fixture
def ensemble():
    return deepcopy(tiny.classifiers())  # broken schemes change it


@pytest.fixture(autouse=True)
def _global_state_is_put_back():
    threads, generator, kind = torch.get_num_threads(), torch.random.get_rng_state(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.random.set_rng_state(generator)
    torch.set_default_dtype(kind)
    torch.set_grad_enabled(True)


def test_a_scheme_that_conforms_passes(ensemble):
    check_scheme(Plain(), ensemble)
    check_scheme(Plain(), ensemble, queries=1, seed=9)


# -- what changes something ----------------------------------------------------------------------------------------


def in_train_mode(model):
    model.train()
    model(torch.zeros(4, 3, 8, 8))
    model.eval()


def write(tensor):
    tensor.data += 1


CHANGES = {
    "train or eval mode of the target": lambda e: e.target.train(),
    "train or eval mode of negative 2": lambda e: e.negatives[2].net[1].train(),
    "requires_grad of net.0.weight of the target": lambda e: e.target.requires_grad_(True),
    "parameter net.0.weight of positive 1": lambda e: write(e.positives[1].net[0].weight),
    "gradient of net.4.bias of the target": lambda e: setattr(e.target.net[4].bias, "grad", torch.zeros(4)),
    "buffer net.1.running_mean of negative 0": lambda e: in_train_mode(e.negatives[0]),
    "the examples": lambda e: e.data.neg_(),
    "the examples' classes": lambda e: write(e.labels),
    "torch's random generator": lambda e: torch.rand(1),
    "numpy's random generator": lambda e: np.random.random(),  # noqa: NPY002
    "python's random generator": lambda e: random.random(),
    "torch's number of threads": lambda e: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's default type": lambda e: torch.set_default_dtype(torch.float64),
    "torch's recording of gradients": lambda e: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_construction_changes_is_named(what, ensemble):
    class Changing(Plain):
        def before(self, ensemble):
            CHANGES[what](ensemble)

    with pytest.raises(AssertionError, match=f"^expected {what} unchanged by construction, got another: correct"):
        check_scheme(Changing(), ensemble)


def test_what_verification_changes_is_named(ensemble):
    class Drawing(LabelAgreement):
        def rate(self, outputs):
            torch.rand(1)
            return super().rate(outputs)

    class Scheme(Plain):
        def after(self, ensemble, x):
            return replace(super().after(ensemble, x), scorer=Drawing.of(query(ensemble.target, x)))

    with pytest.raises(AssertionError, match="expected torch's random generator unchanged by verification"):
        check_scheme(Scheme(), ensemble)


# -- what a fingerprint lacks --------------------------------------------------------------------------------------


class Scaled(LabelAgreement):
    """Rates times a factor that no file keeps."""

    factor = 1.0

    def rate(self, outputs):
        return self.factor * super().rate(outputs)


class Confident(LabelAgreement):
    """Counts only what is sure."""

    def rate(self, outputs):
        return super().rate(outputs) * float(outputs.amax(-1).mean() > 0.99)


def with_scorer(kind, **settings):
    def broken(made, ensemble):
        scorer = kind.of(query(ensemble.target, made.queries))
        vars(scorer).update(settings)
        return replace(made, scorer=scorer)

    return broken


def out_of_the_box(made, ensemble):
    made.queries[0] += 2.5
    return made


def careless_threshold(made, ensemble):
    object.__setattr__(made, "threshold", 2.0)
    return made


def wrong_classes(made, ensemble):
    made.scorer.labels.add_(1)
    return made


def drawn(made, ensemble):
    with torch.random.fork_rng(devices=[]):
        return replace(made, queries=made.queries.lerp(torch.rand_like(made.queries), 1e-4))


def one_more(made, ensemble):
    return replace(made, queries=torch.cat([made.queries, made.queries[:1]]))


BROKEN = {
    r"queries of shape \(8, 3, 8, 8\), got \(9, 3, 8, 8\)": one_more,
    r"queries in the box \[-1, 1\], got some in": out_of_the_box,
    r"rates in \[0, 1\], got 2.0": with_scorer(Scaled, factor=2.0),
    r"a threshold in \[0, 1\], got 2.0": careless_threshold,
    r"a rate of the target itself of at least 0.9, got 0.000": wrong_classes,
    r"the same rates and threshold after saving": with_scorer(Scaled, factor=0.95),
    r"the same rates from class labels alone": with_scorer(Confident),
    r"the same queries, threshold and rates again with seed 0": drawn,
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_a_fingerprint_lacks_is_named(words, ensemble):
    sure = tiny.Linear(torch.randn(192, 4, generator=torch.Generator().manual_seed(0)) * 100)
    if "class labels" in words:
        ensemble = replace(ensemble, target=sure)

    class Broken(Plain):
        def after(self, ensemble, x):
            return BROKEN[words](super().after(ensemble, x), ensemble)

    with pytest.raises(AssertionError, match=f"^expected {words}.*: correct the scheme"):
        check_scheme(Broken(), ensemble)


def test_gradients_that_are_not_stated_are_named(ensemble):
    class Sloped(Plain):
        def before(self, ensemble):
            x = ensemble.data[:1].clone().requires_grad_(True)
            torch.autograd.grad(ensemble.target(x).sum(), x)

    with pytest.raises(AssertionError, match="the target's answers alone, without gradients, got others or none"):
        check_scheme(Sloped(), ensemble)


USES = {
    "one": lambda made, positives: positives[0] and made,
    "their number": lambda made, positives: replace(made, threshold=0.5 / len(positives)),
    "a threshold, where there are any": lambda made, positives: replace(made, threshold=0.5 if positives else 0.6),
}


@pytest.mark.parametrize("use", USES)
def test_stolen_models_that_are_not_stated_are_named(ensemble, use):
    class Learning(Plain):
        def construct(self, ensemble, *, queries, seed):
            return USES[use](super().construct(ensemble, queries=queries, seed=seed), ensemble.positives)

    with pytest.raises(AssertionError, match="threshold and rates without stolen models, got others or none"):
        check_scheme(Learning(), ensemble)


def test_a_scheme_that_cannot_be_used_is_named():
    with pytest.raises(AssertionError, match="expected a scheme for these models, got one that needs class labels"):
        check_scheme(Plain(), tiny.regressors())


def test_a_learnt_scheme_may_score_low_but_not_below_its_threshold(ensemble):
    short = schemes.get("liteguard(iterations=60,lr=0.02)")
    made = short.construct(ensemble, queries=8, seed=0)
    assert made.threshold < made.score(query(ensemble.target, made.queries)) < 0.9
    check_scheme(short, ensemble)

    class Unlearnt(type(short)):
        needs: ClassVar[Needs] = replace(short.needs, suspects=False)

    with pytest.raises(AssertionError, match=r"of the target itself of at least 0\.9, got 0"):
        check_scheme(Unlearnt(iterations=60, lr=0.02), ensemble)

    class Low(type(short)):
        def construct(self, ensemble, *, queries, seed):
            return replace(super().construct(ensemble, queries=queries, seed=seed), threshold=0.95)

    with pytest.raises(AssertionError, match=r"of at least 0\.9, or above the threshold 0\.950, got 0"):
        check_scheme(Low(iterations=60, lr=0.02), ensemble)
