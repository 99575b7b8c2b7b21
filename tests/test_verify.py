"""metav verify: what it prints, writes and exits with."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

import tiny
from metav import Fingerprint, Spec, verification
from metav.cli import main
from metav.errors import SuspectError, UsageError
from metav.schemes import get
from metav.scorers import LabelAgreement
from metav.verification import verify
from misbehaving import serving


@pytest.mark.parametrize(("derived", "code", "words"), [(True, 10, ": evidence"), (False, 0, ": no evidence")])
def test_the_verdict_is_printed_and_is_the_exit_code(fingerprint, file, derived, code, words, capsys):
    ensemble = tiny.tables()
    model = ensemble.positives[0] if derived else ensemble.negatives[0]
    with serving(model) as server:
        assert main(["verify", file, f"{server.url}/v2/models/m"]) == code
        said = capsys.readouterr().out
        assert words in said
        assert f"matching rate {verify(fingerprint, model).rate:.4f}" in said
        assert main(["verify", file, f"{server.url}/v2/models/m", "--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert facts["rate"] == pytest.approx(verify(fingerprint, model).rate, abs=1e-5)
    assert (facts["queries"], facts["fingerprint"], facts["p_value"]) == (23, fingerprint.digest, None)
    assert facts["about"]["protocol"].startswith("Open Inference Protocol v2")


def test_the_p_value_is_printed_where_the_fingerprint_has_it(tmp_path, capsys):
    ensemble = tiny.regressors()
    found = get("cohort(pool=100,exact=1,level=0.1)").construct(ensemble, queries=20, seed=0)
    found.save(tmp_path / "fp.safetensors")
    p_value = found.scorer.p_value(ensemble.target(found.queries))
    assert 0 < p_value <= 0.1
    with serving(ensemble.target) as server:
        url = f"{server.url}/v2/models/m"
        command = ["verify", str(tmp_path / "fp.safetensors")]
        assert main([*command, url]) == 10
        assert f"(p-value of a false accusation {p_value:.4f}, matching rate" in capsys.readouterr().out
        assert main([*command, url, "--json"]) == 10
        assert json.loads(capsys.readouterr().out)["p_value"] == pytest.approx(p_value)
        (tmp_path / "list.csv").write_text(f"suspect\n{url}\n")
        main([*command, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "verdicts.csv")])
    with (tmp_path / "verdicts.csv").open(newline="") as rows:
        assert [float(row["p_value"]) for row in csv.DictReader(rows)] == [pytest.approx(p_value)]


def test_without_a_suspect_the_ledger_is_judged(file, tmp_path, capsys):
    ledger = str(tmp_path / "ledger.jsonl")
    with serving(tiny.tables().target) as server:
        assert main(["verify", file, f"{server.url}/invocations", "--ledger", ledger]) == 10
    first = capsys.readouterr().out
    assert main(["verify", file, "--ledger", ledger]) == 10
    again = capsys.readouterr().out
    assert first.split("(")[1].split(" queries")[0] == again.split("(")[1].split(" queries")[0]
    assert first.split(": ")[0] == again.split(": ")[0]  # the suspect's name


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "expected a suspect before all options, got none"),
        (["gone.onnx"], 2, "expected an ONNX file or a URL"),
        (["gone.onnx", "--out", "o.csv"], 2, "expected --out beside --suspects alone"),
        (["--suspects", "gone.csv", "--json"], 2, "expected --json beside one suspect alone"),
        (
            ["http://127.0.0.1:9/[/v2]/models/m:100:", "--request", '["$batch"]', "--attempts", "1"],
            1,
            "[/v2]/models/m:100:",
        ),
        (["http://127.0.0.1:9/v2/models/m", "--attempts", "1"], 1, "a broken connection"),
        (
            ["http://a..b/v2/models/m", "--attempts", "1"],
            2,
            "expected the URL of an inference server, got 'http://a..b",
        ),
        (["a.onnx", "--ledger", "."], 2, "expected a file for --ledger, got the folder"),
        (["--suspects", "list.csv", "--out", "."], 2, "expected a file for --out, got the folder"),
        (["a.onnx", "--suspects", "list.csv"], 2, "leave one"),
        (["a.onnx", "--header", "Authorization=TOKEN"], 2, "expected a URL beside --header"),
        (["a.onnx", "--rate", "2", "--timeout", "5"], 2, "expected a URL beside --rate and --timeout, got 'a.onnx'"),
        (["--suspects", "gone.csv"], 2, "expected a CSV file for --suspects"),
        (["--suspects", "/dev/null"], 2, "save the list as a file first"),
        (["--suspects", "gone.csv", "--jobs", "0"], 2, "--jobs from 1 to 1000000"),
        (["http://h/v2/models/m", "--header", "Authorization"], 2, "expected --header NAME=VARIABLE"),
        (["--ledger", "gone.jsonl"], 1, "name the suspect to ask it"),
        (
            ["--ledger", "a.jsonl", "--box", "0", "255", "--rate", "5"],
            2,
            "expected no --rate and --box beside",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_never_no_evidence(file, arguments, code, words, capsys):
    assert main(["verify", file, *arguments]) == code
    said = capsys.readouterr()
    assert words in " ".join(said.err.split())
    assert "evidence" not in said.out


def test_a_wrong_fingerprint_is_an_error(tmp_path, capsys):
    (tmp_path / "fp.safetensors").write_bytes(b"no")
    assert main(["verify", str(tmp_path / "fp.safetensors"), "x.onnx"]) == 1
    assert "expected a whole safetensors file" in capsys.readouterr().err
    assert main(["verify", "x.onnx", str(tmp_path / "fp.safetensors")]) == 2
    assert "got 'x.onnx' first: swap them" in capsys.readouterr().err


def test_a_suspect_that_changes_its_inputs_leaves_the_queries_as_they_were(fingerprint):
    before = fingerprint.digest
    rates = {verify(fingerprint, lambda x: tiny.tables().target(x.sub_(0.5)), repeat=3).rate for _ in range(3)}
    assert len(rates) == 1
    assert fingerprint.digest == before


def test_answers_that_change_are_asked_again_and_said(fingerprint):
    noise = torch.Generator().manual_seed(0)

    def unsteady(size):
        def model(x):
            answers = tiny.tables().target(x)
            return (answers + size * torch.rand(answers.shape, generator=noise)).log().softmax(1)

        return model

    verdict = verify(fingerprint, unsteady(0.02), repeat=3)
    assert verdict.derived
    assert "answers change: asked 5 times" in verdict.remarks[0]
    assert verdict.queries == 20 + 3 + 4 * 20
    assert verify(fingerprint, tiny.tables().target, repeat=3).remarks == ()


def test_answers_whose_verdict_changes_are_no_verdict(fingerprint):
    ensemble, calls = tiny.tables(), []

    def either(x):
        calls.append(1)
        return (ensemble.target if len(calls) % 2 else ensemble.negatives[0])(x)

    with pytest.raises(SuspectError, match="got other ones each time"):
        verify(fingerprint, either, repeat=3)


def test_a_suspect_of_logits_is_steady_even_if_the_first_ones_look_like_probabilities(fingerprint):
    weight = torch.zeros(20, 3)
    weight[3:] = 5 * torch.randn(17, 3, generator=torch.Generator().manual_seed(0))

    def logits(x):
        return torch.full((len(x), 3), 0.9) if len(x) == 3 else torch.cat([torch.full((3, 3), 0.9), weight[3:]])

    assert verify(fingerprint, logits, repeat=3).remarks[0] == "logits: softmax was applied"
    assert not any("answers change" in remark for remark in verify(fingerprint, logits, repeat=3).remarks)


def test_no_verdict_is_given_that_no_round_gave():
    """Answers that are wrong every other time are right in the mean of five, mostly."""
    noise, right = torch.Generator().manual_seed(0), torch.arange(100) % 10
    x = torch.rand(100, 3, generator=noise)
    made = Fingerprint(
        queries=x,
        scorer=LabelAgreement(100),
        spec=Spec(input_shape=(3,), output_shape=(10,), low=0.0, high=1.0, output="probabilities"),
        threshold=0.6,
        provenance={},
    )
    made.scorer.load_state_dict({"labels": right})

    def wavering(asked):
        drawn = torch.randint(10, (len(asked),), generator=noise)
        kept = torch.rand(len(asked), generator=noise) < 0.5
        return one_hot(torch.where(kept, right[: len(asked)], drawn), 10).float()

    with pytest.raises(SuspectError, match=r"got other ones each time, with matching rates from 0\.[45]"):
        verify(made, wavering, repeat=3)


def test_classes_as_yes_and_no_may_change_too(fingerprint):
    noise, asked = torch.Generator().manual_seed(0), []

    def wavering(x):
        asked.append(len(x))
        return torch.rand(len(x), generator=noise) < 0.5

    with suppress(SuspectError):  # whatever the verdict is
        verify(fingerprint, wavering, repeat=3)
    assert asked == [len(fingerprint.queries), 3, *4 * [len(fingerprint.queries)]]


def test_numbers_far_from_zero_that_change_are_noticed():
    made = get("metav(iterations=20)").construct(tiny.regressors(), queries=20, seed=0)
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return 2000 + torch.randn(len(x), *made.spec.output_shape, generator=generator)

    assert made.score(noise(made.queries)) == pytest.approx(0, abs=1e-3)
    assert "answers change: asked 5 times" in verify(made, noise, repeat=3).remarks[0]
    assert verify(made, lambda x: 2000 + x[:, :2].expand(len(x), *made.spec.output_shape), repeat=3).remarks == ()


@pytest.mark.parametrize(("spoil", "words"), [(lambda x: x * torch.nan, "got NaN"), (lambda x: x[:1], "got 1")])
def test_second_answers_that_cannot_be_used_are_no_verdict(fingerprint, spoil, words):
    calls = []

    def model(x):
        calls.append(len(x))
        answers = tiny.tables().target(x)
        return answers if len(calls) == 1 else spoil(answers)

    with pytest.raises(SuspectError, match=words):
        verify(fingerprint, model, repeat=3)
    assert calls == [20, 3]


def test_a_suspect_that_gives_the_same_answer_to_all_is_remarked_on(fingerprint):
    constant = verify(fingerprint, lambda x: torch.tensor([[0.5, 0.3, 0.2]]).repeat(len(x), 1))
    assert constant.remarks[0].startswith("nearly the same answer to every query")
    assert verify(fingerprint, tiny.tables().target).remarks == ()


def test_answers_in_another_unit_are_remarked_on():
    ensemble = tiny.regressors()
    target = ensemble.target
    made = tiny.referred(get("metav(iterations=20)").construct(ensemble, queries=20, seed=0), target)
    assert verify(made, target).remarks == ()
    assert verify(made, lambda x: target(x) / 7 + 1).remarks == (
        "answers follow the target's at 0.143 times their size: are they in another unit?",
    )
    assert all(verify(made, each).remarks == () for each in ensemble.positives)
    assert not any("another unit" in remark for each in ensemble.negatives for remark in verify(made, each).remarks)

    def coarse(x):  # a theft that has lost a part of the target, in another unit
        answers = target(x)
        noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0))
        return (answers + 0.3 * answers.std() * noise) / 1000

    assert verify(made, coarse).remarks[-1].startswith("answers follow the target's at 0.00")


def test_evidence_against_answers_that_hardly_follow_the_target_s_is_remarked_on(fingerprint):
    def chance(x):
        return torch.rand(len(x), 3, generator=torch.Generator().manual_seed(0)).softmax(1)

    harsh = replace(fingerprint, threshold=0.0)  # accuses everybody
    (remark,) = verify(harsh, chance).remarks
    assert remark.startswith("answers hardly follow the target's (correlation ")
    assert verify(harsh, tiny.tables().target).remarks == ()
    assert verify(replace(fingerprint, threshold=1.0), chance).remarks == ()


def test_a_fingerprint_without_the_target_s_answers_says_what_was_not_checked(fingerprint):
    (remark,) = verify(replace(fingerprint, reference=None), tiny.tables().target).remarks
    assert remark.startswith("the order of classes was not checked")


def test_noise_in_the_smaller_of_two_values_is_noticed():
    size = torch.tensor([1.0, 50_000.0])
    first = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * size
    second = first + torch.tensor([0.5, 0.0])
    assert verification._changed(first, second[:3], by_value=True)
    assert not verification._changed(first, first[:3] * (1 + 1e-6), by_value=True)


@pytest.mark.parametrize("answer", [{"logits": 1}, ["cat"], (torch.zeros(3), torch.zeros(2))])
def test_what_is_no_array_is_refused_in_one_sentence(fingerprint, answer):
    with pytest.raises(SuspectError, match="expected an array of numbers from the model, got "):
        verify(fingerprint, lambda x: answer)


def test_complex_answers_are_refused(fingerprint):
    with pytest.raises(SuspectError, match=r"expected real answers, got torch\.complex64"):
        verify(fingerprint, lambda x: torch.ones(len(x), 3, dtype=torch.complex64))


def test_fewer_than_no_queries_cannot_be_asked_again(fingerprint):
    with pytest.raises(UsageError, match="expected repeat of at least 0, got -1"):
        verify(fingerprint, lambda x: torch.ones(len(x), 3), repeat=-1)


@pytest.mark.parametrize("scheme", ["metav(iterations=2)", "liteguard(iterations=2)"])
def test_a_target_without_gradients_is_refused_by_schemes_that_need_them(scheme):
    whole = tiny.regressors()
    rounded = replace(whole, target=lambda x: whole.target(x.detach()))
    with pytest.raises(SuspectError, match="expected a target that gives gradients by its inputs for "):
        get(scheme).construct(rounded, queries=4, seed=0)
