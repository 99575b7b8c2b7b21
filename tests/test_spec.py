"""What a form accepts: the nearest valid row, boxes of each feature, and schemes that keep to them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from metav import Fingerprint, Part, Spec, Task, schemes, storage
from metav.errors import UsageError
from metav.schemes.metav import box, unbox
from metav.scorers import MetaVerifier
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
# the same with all scaled to [-1, 1], as Warfarin is: features of the group have steps, too
SCALED = replace(FORM, low=-1, high=1, steps=(0.1, 0.0, 2.0, 2.0, 2.0, 2.0))
ONE = Spec(input_shape=(1,), output_shape=(1,), low=0, high=1, output="regression")
RACES = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])


def all_valid(spec: Spec, second: Tensor) -> Tensor:
    """Each valid row, with the values (n,) of the second feature: (n, rows, 6)."""
    low, high = (each.expand(6) for each in spec.bounds())
    steps = round(float((high[0] - low[0]) / spec.steps[0]))
    ages = [float(low[0]) + spec.steps[0] * index for index in range(steps + 1)]
    smokers = (float(low[2]), float(high[2]))
    rows = torch.tensor([[age, 0, smoker, *race] for age, smoker, race in product(ages, smokers, RACES.tolist())])
    found = rows.repeat(len(second), 1, 1)
    found[:, :, 1] = second[:, None]
    return found


@pytest.mark.parametrize("spec", [FORM, SCALED], ids=["own units", "scaled"])
def test_the_nearest_row_is_valid_and_no_valid_row_is_nearer(spec):
    low, high = spec.bounds()
    x = low + (high - low) * (1.4 * torch.rand(2000, 6, generator=torch.Generator().manual_seed(0)) - 0.2)
    found = spec.nearest(x)
    assert spec.valid(found).all()
    torch.testing.assert_close(spec.nearest(found), found)
    inside = spec.clamp(x)
    least = (all_valid(spec, inside[:, 1]) - inside[:, None]).norm(dim=2).amin(1)
    torch.testing.assert_close((found - inside).norm(dim=1), least, atol=1e-4, rtol=1e-4)
    assert found[:, 3:].eq(1).sum(0).min() > 400  # each of a group is as often the one
    assert spec.valid(x).sum() == 0


def test_the_highest_value_of_a_grid_is_on_it_however_it_rounds():
    for step in (0.1, 0.2, 0.3, 0.05, 0.001, 7.0):
        for count in range(1, 1000, 7):
            spec = Spec(
                input_shape=(1,), output_shape=(1,), low=0, high=count * step, output="regression", steps=(step,)
            )
            assert spec.valid(torch.tensor([[count * step]])).all(), (step, count)


def test_a_spec_takes_numbers_from_numpy_and_torch_and_keeps_plain_ones(tmp_path):
    low = np.array([18, 30, 0, -1, -1, -1], dtype=np.float32)
    spec = replace(FORM, low=low, high=torch.tensor(FORM.high), steps=list(FORM.steps), one_hot=[[3, 4, 5]])
    assert spec == FORM
    assert spec.nearest(torch.rand(3, 6, dtype=torch.float64)).dtype == torch.float32
    assert not spec.valid(torch.full((1, 6), float("nan"))).any()


def test_a_value_that_is_one_of_two_can_become_the_other():
    inside = 0.98 * (torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    rows = SCALED.nearest(inside)
    w = unbox(rows, SCALED, 1)
    torch.testing.assert_close(box(w, SCALED, 1), rows, atol=1e-5, rtol=0)
    moved = box(w - 0.7 * w.sign(), SCALED, 1)
    assert (moved[:, 2] == -rows[:, 2]).all()
    assert (moved[:, 3:] != rows[:, 3:]).any(1).all()


def test_files_from_before_there_were_forms_keep_their_digest(tmp_path):
    spec = replace(SCALED, steps=(), one_hot=())
    made = Fingerprint(queries=torch.zeros(2, 6), scorer=MetaVerifier(6, 1, 4), spec=spec)
    made.save(tmp_path / "plain.safetensors")
    _, meta = storage.load_tensors(tmp_path / "plain.safetensors", "")
    assert set(meta["spec"]) == {"input_shape", "output_shape", "low", "high", "output", "unit"}
    assert Fingerprint.load(tmp_path / "plain.safetensors").digest == made.digest


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
    spec = replace(ONE, high=2.5, steps=(1.0,))
    assert spec.nearest(torch.tensor([[2.5], [2.4], [0.4]])).tolist() == [[2.0], [2.0], [0.0]]


def test_the_models_see_valid_rows_and_the_gradient_is_that_of_the_rows_before():
    w = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    x, free = box(w, FORM, 1), box(w, FORM)
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
    "text", ["metav(iterations=400,lr=0.01,valid=1)", "liteguard(lr=0.01,valid=1)", "cohort(pool=40,level=0.1,valid=1)"]
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


@pytest.mark.parametrize(("text", "reach"), [("modeldiff", 0.06), ("conferae(steps=30,lr=0.01,eps=0.1)", 0.1)])
def test_schemes_that_move_points_do_so_in_widths_of_each_box(text, reach):
    ensemble = forms()
    made = schemes.get(text).construct(ensemble, queries=4, seed=0)
    low, high = FORM.bounds()
    apart = torch.cdist(made.queries / (high - low), ensemble.data / (high - low), p=torch.inf).amin(1)
    assert apart.max() <= reach + 1e-5
    moved = (made.queries[:, None] - ensemble.data).abs() / (high - low)
    nearest = moved[torch.arange(len(moved)), moved.amax(2).argmin(1)]
    assert (nearest.amax(0)[:2] > 0.2 * reach).all()  # years and kilograms alike


@pytest.mark.parametrize("text", ["metav(valid=1)", "liteguard(valid=1)", "cohort(valid=1)"])
def test_valid_queries_of_a_form_that_rejects_nothing(text):
    words = "expected a table whose spec has steps or one_hot groups for valid=1, got one"
    with pytest.raises(UsageError, match=words):
        schemes.get(text).construct(tiny.tables(), queries=4, seed=0)
    with pytest.raises(UsageError, match=words):  # before anything is trained
        schemes.require(text, tiny.TABLES)
    schemes.require(text, FORM)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": (0.0, 0.0)}, "expected one value for each of 6 features of a table in low, got 2"),
        ({"output": "images of cats"}, "expected a kind of output among"),
        ({"output_shape": (0,)}, "expected output_shape as a tuple of sizes of at least 1, got (0,)"),
        ({"input_shape": 3}, "expected input_shape as a tuple of sizes of at least 1, got 3: (1,) is one number"),
        ({"steps": (1.0,)}, "expected one value for each of 6 features of a table in steps, got 1"),
        ({"high": 18.0}, "expected low below high, both finite"),
        ({"high": float("nan")}, "expected low below high, both finite"),
        ({"steps": (-1.0,) * 6}, "expected steps from 0, which is for any value, to the width"),
        ({"steps": (100.0, *[0.0] * 5)}, "expected steps from 0, which is for any value, to the width"),
        ({"steps": 1.0}, "expected numbers in low and high, a tuple of them in steps"),
        ({"one_hot": (3, 4)}, "expected numbers in low and high, a tuple of them in steps"),
        ({"one_hot": ((),)}, "expected groups of different features"),
        ({"low": [0.0, 0.0]}, "expected one value for each of 6 features of a table in low, got 2"),
        ({"one_hot": ((3, 4), (4, 5))}, "expected groups of different features, numbered from 0 to 5"),
        ({"one_hot": ((3, 6),)}, "expected groups of different features, numbered from 0 to 5"),
        (
            {"input_shape": (3, 2)},
            "expected one number in low for inputs of shape (3, 2), got 6: only a table has one for each feature",
        ),
        (
            {"input_shape": (3, 2), "low": 0.0, "high": 1.0, "steps": (1.0,)},
            "expected no steps for inputs of shape (3, 2), got 1: only a table has one for each feature",
        ),
    ],
)
def test_a_spec_that_does_not_fit_its_inputs(changes, words):
    with pytest.raises(UsageError, match=re.escape(words)):
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


def test_shapes_are_plain_numbers_whatever_they_came_as():
    spec = Spec(input_shape=(np.int64(3),), output_shape=(np.int32(2),), low=0.0, high=1.0, output="probabilities")
    assert storage.canonical_json([spec.input_shape, spec.output_shape]) == storage.canonical_json([[3], [2]])
    with pytest.raises(UsageError, match=r"expected output_shape as a tuple of sizes of at least 1, got \(2\.5,\)"):
        replace(spec, output_shape=(2.5,))


def test_a_wide_box_hides_no_value_that_is_off_its_steps():
    spec = Spec(input_shape=(2,), output_shape=(1,), low=0.0, high=(1e6, 1.0), steps=(1.0, 1.0), output="regression")
    rows = torch.tensor([[999_999.0, 1.0], [0.5, 1.0], [7.0, 1.0]])
    assert spec.valid(rows).tolist() == [True, False, True]
