"""What suspects answer instead of what the target does: converted and said, or refused; never a silent verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from metav.answers import understand
from metav.errors import SuspectError
from metav.suspects.changed_answers import AnswerNoise, Rounding, Tempering, Top

X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
LOGITS = tiny.of_tables(1).logits(3 * X).detach() * 4
TRUE = LOGITS.softmax(1)
BYTES = (255 * torch.randn(100, 20, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)).round()
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("given", "remark"),
    [
        (TRUE, None),
        (TRUE.unsqueeze(2), None),
        (TRUE.double(), None),
        (LOGITS, "logits: softmax was applied"),
        (LOGITS - 50, "logits: softmax was applied"),
        (TRUE.log(), "logarithms of probabilities"),
        (-TRUE.log(), "logarithms of probabilities with their sign turned"),
        (100 * TRUE, "percentages: divided by 100"),
    ],
)
def test_probabilities_in_other_words_are_understood_and_that_is_said(given, remark):
    outputs, remarks = understand(given, tiny.TABLES, 40)
    torch.testing.assert_close(outputs, TRUE, rtol=1e-5, atol=1e-5)
    assert len(remarks) == (remark is not None)
    assert remark is None or remark in remarks[0]


@pytest.mark.parametrize("change", [Rounding(unit=0.01), Rounding(unit=0.001), Tempering(temperature=3)])
def test_rounded_and_softened_probabilities_are_taken_as_they_are(change):
    outputs, remarks = understand(change.changed(TRUE), tiny.TABLES, 40)
    torch.testing.assert_close(outputs, change.changed(TRUE))
    assert remarks == ()


@pytest.mark.parametrize("change", [AnswerNoise(size=0.02, seed=1), Rounding(unit=0.1)])
def test_noisy_or_coarse_probabilities_are_neither_logits_nor_refused(change):
    seven = torch.randn(100, 7, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)
    given = change.changed(seven)
    assert (given.sum(1) - 1).abs().max() > 0.1 or given.min() < -0.01
    outputs, remarks = understand(given, replace(tiny.TABLES, output_shape=(7,)), 100)
    torch.testing.assert_close(outputs.sum(1), torch.ones(100))
    assert outputs.min() >= 0
    assert (outputs - seven).abs().max() < 0.15
    assert remarks == ("noisy or rounded probabilities: cut off at 0, and made to sum to 1",)


def test_answers_of_the_likeliest_classes_alone_are_understood():
    for classes in (1, 2):
        given = Top(k=classes).changed(TRUE)
        outputs, remarks = understand(given, tiny.TABLES, 40)
        torch.testing.assert_close(outputs, given)
        assert "without a probability" in remarks[0] or (given.sum(1) > 0.85).all()
        outputs, remarks = understand(100 * given, tiny.TABLES, 40)
        torch.testing.assert_close(outputs, given)
        assert remarks[0] == "percentages: divided by 100"
    rectified = LOGITS.clamp_min(0)  # some of each row 0, as of classes that are left out
    assert understand(rectified, tiny.TABLES, 40)[1] == ("logits: softmax was applied",)


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_labels_alone_are_probabilities_of_one(shape, kind):
    outputs, remarks = understand(TRUE.argmax(1).reshape(shape).to(kind), tiny.TABLES, 40)
    assert (outputs.argmax(1) == TRUE.argmax(1)).all()
    assert (outputs.sum(1) == 1).all()
    assert "labels only" in remarks[0]


@pytest.mark.parametrize(
    ("given", "remark"),
    [
        (IMAGES, None),
        (IMAGES.squeeze(1), None),
        (IMAGES.movedim(1, -1), None),
        (IMAGES.flatten(1).reshape(4, 8, 8, 1), None),
        (255 * IMAGES, "0..255: divided by 255"),
        (2 * IMAGES - 1, "[-1, 1]: mapped"),
    ],
)
def test_images_in_other_ranges_and_shapes_are_understood(given, remark):
    outputs, remarks = understand(given, tiny.CODES, 4)
    torch.testing.assert_close(outputs, IMAGES)
    assert [remark in each for each in remarks] == [True] * (remark is not None)


def test_a_dose_may_come_without_its_axis():
    spec = tiny.REGRESSION.__class__(input_shape=(6,), output_shape=(1,), low=0, high=1, output="regression")
    outputs, remarks = understand(torch.arange(5.0), spec, 5)
    assert outputs.shape == (5, 1)
    assert remarks == ()


@pytest.mark.parametrize(
    ("given", "spec", "count", "words"),
    [
        (TRUE[:39], tiny.TABLES, 40, "expected 40 answers, one a query, got 39"),
        (torch.tensor(1.0), tiny.TABLES, 40, "got one number"),
        (torch.where(TRUE > 0.99, torch.nan, TRUE).index_fill(0, torch.tensor([0]), torch.nan), tiny.TABLES, 40, "NaN"),
        (TRUE.index_fill(0, torch.tensor([3]), torch.inf), tiny.TABLES, 40, "infinity in 1 of 40"),
        (torch.rand(40, 4).softmax(1), tiny.TABLES, 40, "expected 3 probabilities a query, got 4 numbers"),
        (torch.full((40,), 7), tiny.TABLES, 40, "a class from 0 to 2 a query"),
        (torch.rand(40), tiny.TABLES, 40, "a class from 0 to 2 a query.*: check that the suspect does the target's"),
        (torch.arange(40) % 3 + 1, tiny.TABLES, 40, r"got one number in \[1, 3\]: if its classes are numbered from 1"),
        (0.4 + 0.5 * torch.rand(40, 3), tiny.TABLES, 40, "probabilities that sum to 1, got sums from"),
        (1000 * TRUE, tiny.TABLES, 40, "those of each query sum to 1000"),
        ((255 * TRUE).round(), tiny.TABLES, 40, "those of each query sum to 255"),
        (BYTES, replace(tiny.TABLES, output_shape=(20,)), 100, "those of each query sum to 25."),
        (torch.rand(4, 1, 7, 8), tiny.CODES, 4, r"answers of shape \(1, 8, 8\), got \(1, 7, 8\)"),
        (1000 * IMAGES, tiny.CODES, 4, r"images in \[0, 1\], \[-1, 1\] or \[0, 255\]"),
        (torch.rand(5, 3), tiny.REGRESSION, 5, r"answers of shape \(2,\), got \(3,\)"),
        (torch.full((5,), torch.nan), replace(tiny.REGRESSION, output_shape=(1,)), 5, "infinity in 5 of 5"),
        (torch.zeros(5, 0), tiny.REGRESSION, 5, "expected an answer to each query, got empty ones"),
        (torch.zeros(40, 0), tiny.TABLES, 40, "expected an answer to each query, got empty ones"),
        (torch.zeros(40, 3), tiny.TABLES, 40, "probabilities that sum to 1, got sums from 0 to 0"),
        (TRUE.index_fill(0, torch.tensor([3]), 0.0), tiny.TABLES, 40, "probabilities that sum to 1, got sums from 0"),
    ],
)
def test_what_cannot_be_understood_is_refused(given, spec, count, words):
    with pytest.raises(SuspectError, match=words):
        understand(given, spec, count)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_another_order_of_classes_is_noticed_and_the_right_one_told(order):
    given = torch.empty_like(TRUE)
    given[:, list(order)] = TRUE
    with pytest.raises(SuspectError, match=f"ask with --classes {' '.join(map(str, order))}") as caught:
        understand(given, tiny.TABLES, 40, reference=TRUE)
    assert "order of classes" in str(caught.value)
    assert (understand(given[:, list(order)], tiny.TABLES, 40, reference=TRUE)[0] == TRUE).all()


def test_two_of_many_classes_that_changed_places_are_noticed():
    torch.manual_seed(0)
    many = torch.randn(60, 10).softmax(1)
    spec = replace(tiny.TABLES, output_shape=(10,))
    order = [0, 1, 2, 3, 4, 5, 6, 8, 7, 9]
    with pytest.raises(SuspectError, match="ask with --classes 0 1 2 3 4 5 6 8 7 9"):
        understand(many[:, order], spec, 60, reference=many)
    assert understand(many, spec, 60, reference=many)[1] == ()


@pytest.mark.parametrize("order", [[1, 0], [2, 0, 1]])
def test_values_of_a_regression_in_another_order_are_noticed(order):
    torch.manual_seed(0)
    values = torch.randn(60, len(order)) * torch.tensor([1.0, 40.0, 9000.0])[: len(order)]
    spec = replace(tiny.REGRESSION, output_shape=(len(order),))
    with pytest.raises(SuspectError, match="the target's order of values, got answers that agree with it in another"):
        understand(values[:, order], spec, 60, reference=values)
    strangers = torch.randn(60, len(order))
    assert understand(strangers, spec, 60, reference=values)[0].shape == values.shape


def test_of_two_classes_the_opposite_answers_are_no_other_order():
    spec = replace(tiny.TABLES, output_shape=(2,))
    target = TRUE[:, :2] / TRUE[:, :2].sum(1, keepdim=True)
    assert (understand(target.flip(1), spec, 40, reference=target)[0] == target.flip(1)).all()


@pytest.mark.parametrize("most", [1.05, 16.0, 100.0])
def test_images_a_little_beyond_1_are_not_taken_for_bytes(most):
    with pytest.raises(SuspectError, match="expected images in"):
        understand(most * IMAGES.clamp(0.5) / IMAGES.max(), tiny.CODES, 4)


def test_independent_models_are_not_taken_for_the_target_in_another_order():
    others = [tiny.of_tables(seed)(3 * X).detach() for seed in range(2, 60)]
    taken = 0
    for other in others:
        try:
            understand(other, tiny.TABLES, 40, reference=TRUE)
        except SuspectError:
            taken += 1
    assert taken <= len(others) // 10  # untrained ones; with three classes two in another order are alike by chance


def test_of_two_classes_that_an_api_sorts_it_is_remarked_on():
    spec = replace(tiny.TABLES, output_shape=(2,))
    given = torch.softmax(3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), -1)
    outputs, (remark,) = understand(given.sort(descending=True).values, spec, 40, reference=given)
    assert remark.startswith("the first of two classes is the likelier in each answer")
    assert torch.equal(outputs, given.sort(descending=True).values)
    assert understand(given, spec, 40, reference=given)[1] == ()


def test_probabilities_that_an_api_sorts_are_refused_and_those_of_a_model_of_one_class_are_not():
    given = torch.softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), -1)
    with pytest.raises(SuspectError, match="got the largest first in each answer: ask for them by class"):
        understand(given.sort(descending=True).values, tiny.TABLES, 40)
    falling = given.sort(descending=True).values
    assert understand(falling, tiny.TABLES, 40, reference=falling)[1] == ()  # as the target's are
    alike = torch.tensor([0.5, 0.3, 0.2]) + 0.01 * torch.rand(40, 1)
    assert understand(alike / alike.sum(1, keepdim=True), tiny.TABLES, 40)[1] == ()
    rounded = torch.tensor([[0.99, 0.01, 0.0], [1.0, 0.0, 0.0]]).repeat(20, 1)
    rounded[:30] = rounded[1]
    assert understand(rounded, tiny.TABLES, 40)[1] == ()
