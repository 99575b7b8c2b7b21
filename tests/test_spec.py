"""What a form accepts: the nearest valid row, boxes of each feature, and schemes that keep to them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from metav import Fingerprint, Part, Spec, Task, schemes
from metav.errors import UsageError
from metav.schemes.metav import box
from metav.testing import check_scheme

# age in years, weight in kg to any digit, smoker, then one of three races
FORM = Spec(
    input_shape=(6,),
    output_shape=(3,),
    low=(18.0, 30.0, 0.0, -1.0, -1.0, -1.0),
    high=(90.0, 250.0, 1.0, 1.0, 1.0, 1.0),
    output="probabilities",
    steps=(1.0, 0.0, 1.0, 0.0, 0.0, 0.0),
    one_hot=((3, 4, 5),),
)
RACES = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.floats(-400, 400, width=32)] * 6), min_size=1, max_size=20))
def test_the_nearest_row_is_valid_and_no_valid_row_is_nearer(rows):
    x = torch.tensor(rows)
    found = FORM.nearest(x)
    assert FORM.valid(found).all()
    assert torch.equal(FORM.nearest(found), found)
    inside = FORM.clamp(x)
    others = [
        torch.tensor([age, 0, smoker, *race]) for age, smoker, race in product(range(18, 91), (0, 1), RACES.tolist())
    ]
    all_ = torch.stack(others)
    all_ = all_.repeat(len(x), 1, 1)
    all_[:, :, 1] = inside[:, None, 1]
    least = (all_ - inside[:, None]).norm(dim=2).amin(1)
    torch.testing.assert_close((found - inside).norm(dim=1), least, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "row",
    [
        [40.5, 70.0, 0.0, 1.0, -1.0, -1.0],
        [40.0, 70.0, 0.3, 1.0, -1.0, -1.0],
        [40.0, 70.0, 0.0, 1.0, 1.0, -1.0],
        [40.0, 70.0, 0.0, -1.0, -1.0, -1.0],
        [40.0, 251.0, 0.0, 1.0, -1.0, -1.0],
    ],
    ids=["half a year", "a third of a smoker", "two races", "no race", "too heavy"],
)
def test_rows_that_a_form_rejects(row):
    good = torch.tensor([40.0, 70.25, 0.0, 1.0, -1.0, -1.0])
    assert FORM.valid(torch.stack([good, torch.tensor(row)])).tolist() == [True, False]


def test_a_high_bound_that_is_on_no_step_is_never_the_nearest():
    spec = Spec(input_shape=(1,), output_shape=(1,), low=0.0, high=2.5, output="regression", steps=(1.0,))
    assert spec.nearest(torch.tensor([[2.5], [2.4], [0.4]])).tolist() == [[2.0], [2.0], [0.0]]


def test_the_models_see_valid_rows_and_the_gradient_is_that_of_the_rows_before():
    ensemble = replace(tiny.tables(), spec=FORM)
    w = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    x, free = box(w, ensemble, 1), box(w, ensemble)
    assert FORM.valid(x).all()
    assert not FORM.valid(free).any()
    slopes = [torch.autograd.grad((each * torch.arange(1, 7)).sum(), w)[0] for each in (x, free)]
    assert torch.equal(*slopes)
    assert slopes[0].abs().min() > 0


def forms():
    """Classifiers of a form's rows: the first layer sees them scaled."""
    plain = tiny.tables()
    low, high = FORM.bounds()
    to_low, to_high = plain.spec.bounds()

    def scaled(model):
        return lambda x: model(to_low + (x - low) * ((to_high - to_low) / (high - low)))

    kinds = {name: scaled(kind) for name, kind in plain.cohort.kinds.items()}
    back = low + (plain.data - to_low) * ((high - low) / (to_high - to_low))
    return replace(
        plain,
        spec=FORM,
        target=scaled(plain.target),
        positives=list(map(scaled, plain.positives)),
        negatives=list(map(scaled, plain.negatives)),
        cohort=replace(plain.cohort, kinds=kinds),
        data=FORM.nearest(back),
    )


@pytest.mark.parametrize(
    "text", ["metav(iterations=400,lr=0.01,valid=1)", "liteguard(lr=0.01,valid=1)", "cohort(pool=40,valid=1)"]
)
def test_a_scheme_asked_for_valid_queries_makes_no_others(text, tmp_path):
    ensemble = forms()
    scheme = schemes.get(text)
    check_scheme(scheme, ensemble, queries=8)
    made = scheme.construct(ensemble, queries=8, seed=0)
    assert FORM.valid(made.queries).all()
    free = schemes.get(text.replace(",valid=1", "")).construct(ensemble, queries=8, seed=0)
    assert not FORM.valid(free.queries).all()
    made.save(tmp_path / "form.safetensors")
    assert Fingerprint.load(tmp_path / "form.safetensors").spec == FORM


@pytest.mark.parametrize("text", ["ipguard", "deepfoolfp(pool=2)", "modeldiff", "conferae(steps=20)"])
def test_schemes_that_move_points_keep_to_the_box_of_each_feature(text):
    ensemble = forms()
    made = schemes.get(text).construct(ensemble, queries=4, seed=0)
    assert FORM.inside(made.queries)
    assert (made.queries[:, 1].max() - made.queries[:, 1].min()) > 10  # kg: not in another feature's box


@pytest.mark.parametrize("text", ["metav(valid=1)", "liteguard(valid=1)", "cohort(valid=1)"])
def test_valid_queries_of_a_form_that_rejects_nothing(text):
    with pytest.raises(
        UsageError, match="expected a table whose spec has steps or one_hot groups for valid=1, got one"
    ):
        schemes.get(text).construct(tiny.tables(), queries=4, seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": (0.0, 0.0)}, "expected one value for each of 6 features of a table in low, got 2"),
        ({"steps": (1.0,)}, "expected one value for each of 6 features of a table in steps, got 1"),
        ({"high": 18.0}, "expected low below high, both finite"),
        ({"high": float("nan")}, "expected low below high, both finite"),
        ({"steps": (-1.0,) * 6}, "expected finite steps of at least 0"),
        ({"one_hot": ((3, 4), (4, 5))}, "expected groups of different features, numbered from 0 to 5"),
        ({"one_hot": ((3, 6),)}, "expected groups of different features, numbered from 0 to 5"),
        (
            {"input_shape": (3, 2)},
            "expected one value for each of 0 features of a table in low, got 6 for inputs of shape",
        ),
    ],
)
def test_a_spec_that_does_not_fit_its_inputs(changes, words):
    with pytest.raises(UsageError, match=words.replace("(", "\\(")):
        replace(FORM, **changes)


def test_examples_that_a_form_would_reject():
    x = FORM.nearest(200 * torch.rand(20, 6))
    good, wrong = Part(x=x, y=torch.arange(20) % 3), Part(x=x.clone(), y=torch.arange(20) % 3)
    wrong.x[4, 0] = 40.5
    parts = {"own": good, "public": wrong, "test": good}
    with pytest.raises(
        UsageError, match=r"rows that fit spec\.steps and spec\.one_hot in the part public, got 1 of 20 .* row 4"
    ):
        Task(name="form", target=tiny.of_tables(0).net, spec=FORM, **parts)
