"""What no fingerprint can be made of is refused in one sentence each, and leaves no file."""

from __future__ import annotations

import re
from dataclasses import dataclass, make_dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

import tiny
from metav import schemes
from metav.cli import main
from metav.errors import MetavError, SuspectError, UsageError
from metav.fingerprint import Fingerprint
from metav.schemes import SCHEMES, MetaV
from metav.schemes.base import log_probabilities
from metav.text import build
from metav.verification import query, verify

SHORT = {
    "metav": "metav(iterations=4)",
    "cohort": "cohort(pool=60)",
    "liteguard": "liteguard(iterations=4)",
    "ipguard": "ipguard(steps=3)",
    "deepfoolfp": "deepfoolfp",
    "conferae": "conferae(steps=2)",
    "modeldiff": "modeldiff(steps=2)",
    "sac-m": "sac-m",
    "akh": "akh",
}
FROM_EXAMPLES = [name for name in SHORT if SCHEMES[name].needs.data]
KINDS = {"classifiers": tiny.classifiers, "tables": tiny.tables, "regressors": tiny.regressors}


class Spoilt(nn.Module):
    """Answers and logits of another model, some of them spoilt by a number."""

    def __init__(self, model, value=float("nan")):
        super().__init__()
        self.model, self.value = model, value

    def logits(self, x):
        return torch.cat([getattr(self.model, "logits", self.model)(x)[:, 1:], 0 * x.flatten(1)[:, :1] + self.value], 1)

    def forward(self, x):
        return self.logits(x)


class Bare(nn.Module):
    """Only the answers of another model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class Constant(nn.Module):
    """The same answer to all inputs; with or without a gradient, which is 0."""

    def __init__(self, answer, sloped):
        super().__init__()
        self.answer, self.sloped = answer, sloped

    def forward(self, x):
        answer = self.answer.expand(len(x), *self.answer.shape)
        return answer + 0 * x.flatten(1)[:, :1] if self.sloped else answer


def refuse(name, ensemble, queries=8):
    """The sentence with which a scheme refuses."""
    with pytest.raises(MetavError, match=r"^expected [^\n]*, got [^\n]*: [^\n]*\.$") as caught:
        schemes.get(SHORT[name]).construct(ensemble, queries=queries, seed=0)
    return str(caught.value)


def usable(names):
    """Schemes with the kinds of models that give what they need."""
    pairs = [(name, kind) for name in names for kind in KINDS if not SCHEMES[name].needs.lacking(KINDS[kind]().spec)]
    return pytest.mark.parametrize(("name", "kind"), pairs)


@pytest.mark.parametrize("name", SHORT)
def test_no_query(name):
    assert "at least 1 query, got 0" in refuse(name, tiny.classifiers(), queries=0)


@usable(FROM_EXAMPLES)
def test_more_queries_than_candidates(name, kind):
    assert "ask for fewer queries" in refuse(name, KINDS[kind](), queries=10_000)


@pytest.mark.parametrize("name", FROM_EXAMPLES)
def test_no_examples(name):
    ensemble = tiny.classifiers()
    words = refuse(name, replace(ensemble, data=ensemble.data[:0], labels=ensemble.labels[:0]))
    assert re.search("got (0|none)", words)


@pytest.mark.parametrize("kind", ["classifiers", "tables"])
def test_a_target_that_classifies_nothing_right_gives_no_start_to_conferae(kind):
    ensemble = KINDS[kind]()
    wrong = (ensemble.target(ensemble.data).argmax(1) + 1) % 3
    assert "examples to start from, got 0" in refuse("conferae", replace(ensemble, labels=wrong))


def test_a_target_that_classifies_everything_right_leaves_akh_what_can_be_mixed():
    table, images = tiny.tables(), tiny.classifiers()
    words = refuse("akh", replace(table, labels=table.target(table.data).argmax(1)))
    assert "expected 8 examples that the target misclassifies, got 0" in words
    made = schemes.get("akh").construct(replace(images, labels=images.target(images.data).argmax(1)), queries=8, seed=0)
    assert made.provenance["misclassified"] == 0


@pytest.mark.parametrize("name", ["akh", "conferae"])
def test_classes_that_are_all_the_same_or_not_known(name):
    ensemble = tiny.classifiers()
    same = torch.full_like(ensemble.labels, 2)
    assert "at least two known classes, got class 2 for all" in refuse(name, replace(ensemble, labels=same))
    assert "at least two known classes, got none" in refuse(name, replace(ensemble, labels=None))


@usable(FROM_EXAMPLES)
@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_target(name, kind, sloped, value):
    ensemble = KINDS[kind]()
    answer = torch.arange(float(ensemble.spec.output_shape[0])) * value  # all classes alike, or one the likeliest
    words = refuse(name, replace(ensemble, target=Constant(answer, sloped)))
    assert "answers depend on its inputs, got the same answer to" in words


@usable([name for name in FROM_EXAMPLES if SCHEMES[name].needs.gradients])
def test_a_target_without_gradients(name, kind):
    ensemble = KINDS[kind]()
    words = refuse(name, replace(ensemble, target=partial(query, ensemble.target)))
    assert f"gives gradients by its inputs for {name}, got one that does not" in words


class WithLayer(nn.Module):
    """A classifier whose last layer is called `logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.logits(self.hidden(x).relu()).softmax(-1)


def test_a_layer_called_logits_is_no_method_of_that_name():
    model, x = WithLayer(), torch.rand(5, 6)
    torch.testing.assert_close(log_probabilities(model, x), model(x).log())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.logits(x)


def test_constant_suspects_are_judged():
    ensemble = tiny.classifiers()
    constant = Constant(torch.tensor([0.1, 0.2, 0.3, 0.4]), sloped=False)
    for text in SHORT.values():
        made = schemes.get(text).construct(ensemble, queries=8, seed=0)
        assert 0 <= verify(made, constant).rate <= 1


@usable(SHORT)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_with_answers_that_are_not_finite(name, kind, value):
    ensemble = KINDS[kind]()
    for target in (Spoilt(ensemble.target, value), Bare(Spoilt(ensemble.target, value))):
        assert "NaN or infinity" in refuse(name, replace(ensemble, target=target))


@usable(SHORT)
def test_negatives_with_answers_that_are_not_finite(name, kind):
    ensemble = KINDS[kind]()
    spoilt = [Spoilt(model) for model in ensemble.negatives]
    assert re.search("NaN(,| or) infinity", refuse(name, replace(ensemble, negatives=spoilt)))


@pytest.mark.parametrize("name", ["metav", "liteguard", "conferae"])
def test_positives_with_answers_that_are_not_finite(name):
    ensemble = tiny.classifiers()
    spoilt = [Spoilt(model) for model in ensemble.positives]
    assert "NaN or infinity" in refuse(name, replace(ensemble, positives=spoilt))


@pytest.mark.parametrize("name", SHORT)
def test_stolen_models_are_asked_for_by_schemes_that_learn_from_them_alone(name):
    ensemble = replace(tiny.classifiers(), positives=[])
    if SCHEMES[name].needs.thefts:
        assert "at least one positive suspect to construct from, got none" in refuse(name, ensemble)
    else:
        made = schemes.get(SHORT[name]).construct(ensemble, queries=5, seed=0)
        assert made.digest == schemes.get(SHORT[name]).construct(tiny.classifiers(), queries=5, seed=0).digest


@pytest.mark.parametrize("name", SHORT)
def test_a_suspect_with_answers_that_are_not_finite(name):
    ensemble = tiny.classifiers()
    made = schemes.get(SHORT[name]).construct(ensemble, queries=5, seed=0)
    with pytest.raises(SuspectError, match=r"^expected finite answers, got NaN"):
        verify(made, Spoilt(ensemble.target))


def test_queries_that_are_not_finite():
    made = schemes.get("sac-m").construct(tiny.classifiers(), queries=3, seed=0)
    with pytest.raises(UsageError, match=r"^expected finite queries, got NaN or infinity: "):
        replace(made, queries=made.queries * float("nan"))


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHORT)
def test_an_unknown_option(name):
    known = r"no arguments" if name in ("sac-m", "akh") else r"arguments among \w+, .*"
    with pytest.raises(UsageError, match=rf"^expected {known}, got 'stepz=3': (correct it\.|did you mean 'steps?'\?)$"):
        schemes.get(f"{name}(stepz=3)")


def test_the_nearest_option_that_is_not_given_yet_is_suggested():
    with pytest.raises(UsageError, match=r"got 'lable=1': did you mean 'labels'\?$"):
        schemes.get("cohort(lable=1)")
    with pytest.raises(UsageError, match=r"^expected labels once, got it again in 'labels=0': leave one out\.$"):
        schemes.get("cohort(labels=1,labels=0)")


BAD = {
    "ipguard(steps=0)": "steps of at least 1, got 0",
    "ipguard(lr=0)": "a finite lr above 0",
    "ipguard(lr=nan)": "a finite lr above 0",
    "ipguard(lr=inf)": "a finite lr above 0",
    "ipguard(margin=-1)": "margin of at least 0",
    "ipguard(other=leest)": "did you mean 'least'",
    "deepfoolfp(candidates=1)": "candidates of at least 2, got 1",
    "deepfoolfp(pool=0)": "pool of at least 1, got 0",
    "deepfoolfp(definite=1)": "definite in [0, 1)",
    "deepfoolfp(overshoot=-1)": "finite overshoot of at least 0",
    "conferae(members=0)": "members of at least 1, got 0",
    "conferae(eps=0)": "eps in (0, 1]",
    "conferae(lr=inf)": "a finite lr above 0",
    "conferae(keep=0)": "keep in (0, 1]",
    "modeldiff(steps=0)": "steps of at least 1",
    "modeldiff(eps=2)": "eps and step in (0, 1]",
    "modeldiff(diversity=inf)": "finite diversity of at least 0",
    "liteguard(iterations=0)": "iterations of at least 1, got 0",
    "liteguard(lr=inf)": "a finite lr above 0",
    "liteguard(target=-1,negative=2)": "finite weights of at least 0",
    "liteguard(negative=inf)": "finite weights of at least 0",
    "cohort(pool=-1)": "pool of at least 0, got -1",
    "cohort(near=2)": "near and independents in [0, 1]",
    "cohort(ridge=0)": "finite ridge and sharp above 0",
    "cohort(exact=7)": "exact of 0 or 1, got 7",
    "cohort(half=-1)": "half of 0 or 1, got -1",
    "cohort(labels=2)": "labels of 0 or 1, got 2",
    "liteguard(valid=2)": "valid of 0 or 1, got 2",
    "metav(half=5)": "half of 0 or 1, got 5",
    "metav(lr=0)": "a finite lr above 0, got 0.0",
    "metav(query_lr=-1)": "a finite query_lr of at least 0, got -1.0",
    "metav(": "like wp(0.3) or metav(batch=4), got 'metav('",
    "akh(7)": "no arguments, got '7'",
}


@pytest.mark.parametrize("text", BAD)
def test_options_that_make_no_sense(text):
    with pytest.raises(UsageError, match=r"^expected [^\n]*, got [^\n]*: ") as caught:
        schemes.get(text)
    assert BAD[text] in str(caught.value)


def test_options_are_read_by_type_however_it_is_annotated():
    """With `from __future__ import annotations` types come as text, without it as classes."""
    for types in ({"share": float, "steps": int, "start": str}, {"share": "float", "steps": "int", "start": "str"}):
        kind = make_dataclass("Kind", types.items(), frozen=True, kw_only=True)
        assert build(kind, "share=0.5,steps=3,start=noise") == kind(share=0.5, steps=3, start="noise")
        with pytest.raises(UsageError, match="expected steps to be of type int, got "):
            build(kind, "share=0.5,steps=0.5,start=noise")


# -- nothing half-written -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failing(MetaV):
    """Refuses at the very end."""

    def construct(self, ensemble, *, queries, seed):
        made = super().construct(ensemble, queries=queries, seed=seed)
        return Fingerprint(queries=made.queries * float("nan"), scorer=made.scorer, spec=made.spec)


@pytest.mark.parametrize("command", ["fingerprint", "bench"])
def test_a_construction_that_fails_leaves_no_file(command, smoke_zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SCHEMES, "failing", Failing)
    out = tmp_path / "made"
    where = ["--zoo", str(smoke_zoo.folder), "--jobs", "1", "--out", str(out if command == "bench" else out / "fp")]
    assert main([command, "warfarin", "--profile", "smoke", "--scheme", "failing(iterations=2)", *where]) == 2
    error = capsys.readouterr().err
    assert "metav: expected finite queries, got NaN or infinity" in error
    assert "Traceback" not in error
    assert list(out.iterdir()) == []
