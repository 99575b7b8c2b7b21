"""A fingerprint is data: saved, loaded, digested, and strict about what it is asked to score."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metav import Fingerprint, Spec
from metav.errors import IntegrityError, SuspectError, UsageError
from metav.scorers import MetaVerifier
from metav.storage import load_tensors, save_tensors

SPEC = Spec(input_shape=(2, 3), output_shape=(4,), low=0.0, high=1.0, output="probabilities")


@pytest.fixture
def made() -> Fingerprint:
    torch.manual_seed(0)
    scorer = MetaVerifier(answers=20, depth=2, width=7).eval().requires_grad_(False)
    return Fingerprint(
        queries=torch.rand(5, 2, 3),
        scorer=scorer,
        spec=SPEC,
        threshold=0.4,
        provenance={"scheme": "metav", "seed": 1, "options": {"rate": 0.001}},
    )


def test_saved_and_loaded_it_is_the_same(made, tmp_path):
    digest = made.save(tmp_path / "fp.safetensors")
    again = Fingerprint.load(tmp_path / "fp.safetensors")
    assert again.digest == made.digest == digest
    assert (again.spec, again.threshold, again.provenance) == (made.spec, made.threshold, made.provenance)
    answers = torch.rand(5, 4)
    assert again.score(answers) == made.score(answers)
    assert again.save(tmp_path / "again.safetensors") == digest
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "fp.safetensors").read_bytes()


def test_rates_are_probabilities(made):
    for scale in (0, 1, 1e3, 1e9):
        assert 0 <= made.score(scale * torch.randn(5, 4)) <= 1


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (torch.rand(5, 3), r"outputs of shape \(5, 4\), got \(5, 3\)"),
        (torch.rand(4, 4), r"got \(4, 4\)"),
        (torch.rand(20), r"got \(20,\)"),
        (torch.full((5, 4), torch.nan), "got NaN, infinity"),
        (torch.full((5, 4), torch.inf), "got NaN, infinity"),
        (torch.full((5, 4), 1e300, dtype=torch.float64), "beyond float32"),
    ],
)
def test_bad_answers_are_errors_and_no_verdict(made, outputs, words):
    with pytest.raises(SuspectError, match=words):
        made.score(outputs)


def test_answers_that_overflow_in_the_scorer_are_no_verdict(made):
    made.scorer.net[0].weight.fill_(100.0)
    with pytest.raises(SuspectError, match="beyond float32"):
        made.score(torch.full((5, 4), 3e38))


def test_queries_must_fit_the_spec(made):
    for queries in (torch.rand(0, 2, 3), torch.rand(5, 3, 2), torch.rand(2, 3)):
        with pytest.raises(UsageError, match="expected queries of shape"):
            Fingerprint(queries=queries, scorer=made.scorer, spec=SPEC)
    with pytest.raises(UsageError, match=r"^expected float32 queries, got torch\.float64: convert them with \.float"):
        Fingerprint(queries=made.queries.double(), scorer=made.scorer, spec=SPEC)
    with pytest.raises(UsageError, match=r"threshold in \[0, 1\], got 2"):
        Fingerprint(queries=made.queries, scorer=made.scorer, spec=SPEC, threshold=2)


def rewrite(path, change):
    """Save the file again after `change(tensors, meta)`, as somebody would who wants another verdict."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["metav"])
    change(tensors, meta)
    save_file(tensors, path, metadata={"metav": json.dumps(meta)})


def test_edited_files_are_refused(made, tmp_path):
    path = tmp_path / "fp.safetensors"
    edits = [
        lambda tensors, meta: tensors["queries"].mul_(0.5),
        lambda tensors, meta: tensors.pop("scorer.centre"),
        lambda tensors, meta: meta.update(threshold=0.99),
        lambda tensors, meta: meta["spec"].update(low=-9.0),
        lambda tensors, meta: meta["provenance"].update(scheme="other"),
    ]
    for edit in edits:
        made.save(path)
        rewrite(path, edit)
        with pytest.raises(IntegrityError, match="was changed after it was written"):
            Fingerprint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, meta: meta.update(spec="none"),
        lambda tensors, meta: meta["spec"].update(more=1),
        lambda tensors, meta: meta["spec"].update(input_shape=None),
        lambda tensors, meta: meta.update(threshold="high"),
        lambda tensors, meta: meta.update(threshold=7),
        lambda tensors, meta: meta.pop("threshold"),
        lambda tensors, meta: meta["scorer"].update(kind=["list"]),
        lambda tensors, meta: meta["scorer"].update(kind="newer"),
        lambda tensors, meta: meta["scorer"]["settings"].update(answers=3),
        lambda tensors, meta: tensors.pop("queries"),
        lambda tensors, meta: tensors.update(queries=torch.full((5, 2, 3), torch.nan)),
        lambda tensors, meta: tensors.update(queries=torch.ones(5, 2, 3, dtype=torch.int64)),
        lambda tensors, meta: tensors.update(queries=torch.full((5, 2, 3), 9.0)),
        lambda tensors, meta: tensors.update(queries=torch.rand(6, 2, 3)),
    ],
)
def test_parts_that_do_not_fit_are_refused_even_where_the_digest_is_right(made, tmp_path, change):
    path = tmp_path / "fp.safetensors"
    made.save(path)
    tensors, meta = load_tensors(path, "")
    meta.pop("digest")
    change(tensors, meta)
    save_tensors(path, tensors, meta)
    with pytest.raises(IntegrityError, match="that fit together") as caught:
        Fingerprint.load(path)
    assert "\n" not in str(caught.value)


def test_other_contents_are_refused(made, tmp_path, smoke_zoo):
    with pytest.raises(IntegrityError, match=r"expected a fingerprint in '.*', got another file of metav: check the"):
        Fingerprint.load(smoke_zoo._weights("target"))
    path = tmp_path / "newer.safetensors"
    save_tensors(path, made._tensors(), {**made._meta(), "format": 2})
    with pytest.raises(IntegrityError, match=r"expected a fingerprint of format 1 in '.*', got format 2: use the"):
        Fingerprint.load(path)
