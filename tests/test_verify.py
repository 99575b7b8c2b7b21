"""metav verify: what it prints, writes and exits with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import one_hot

import tiny
from metav import Fingerprint, Spec, verification
from metav.access import Access
from metav.campaign import judge_all
from metav.cli import main
from metav.errors import SettingsError, SuspectError, UsageError
from metav.schemes import get
from metav.scorers import LabelAgreement
from metav.verification import verify
from misbehaving import serving


@pytest.fixture(scope="module")
def made():
    return tiny.referred(get("metav(iterations=60)").construct(tiny.tables(), queries=20, seed=0), tiny.tables().target)


@pytest.fixture
def file(made, tmp_path):
    made.save(tmp_path / "fp.safetensors")
    return str(tmp_path / "fp.safetensors")


@pytest.mark.parametrize(("derived", "code", "words"), [(True, 10, ": evidence"), (False, 0, ": no evidence")])
def test_the_verdict_is_printed_and_is_the_exit_code(made, file, derived, code, words, capsys):
    ensemble = tiny.tables()
    model = ensemble.positives[0] if derived else ensemble.negatives[0]
    with serving(model) as server:
        assert main(["verify", file, f"{server.url}/v2/models/m"]) == code
        said = capsys.readouterr().out
        assert words in said
        assert f"matching rate {verify(made, model).rate:.4f}" in said
        assert main(["verify", file, f"{server.url}/v2/models/m", "--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert facts["rate"] == pytest.approx(verify(made, model).rate, abs=1e-5)
    assert (facts["queries"], facts["fingerprint"], facts["p_value"]) == (23, made.digest, None)
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
        (["a.onnx", "--suspects", "list.csv"], 2, "leave one"),
        (["a.onnx", "--header", "Authorization=TOKEN"], 2, "expected a URL beside --header"),
        (["a.onnx", "--rate", "2", "--timeout", "5"], 2, "expected a URL beside --rate and --timeout, got 'a.onnx'"),
        (["--suspects", "gone.csv"], 2, "expected a CSV file for --suspects"),
        (["--suspects", "/dev/null"], 2, "save the list as a file first"),
        (["--suspects", "gone.csv", "--jobs", "0"], 2, "--jobs of at least 1"),
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


def test_a_list_in_another_encoding_is_named_as_such(file, tmp_path, capsys):
    (tmp_path / "list.csv").write_bytes("suspect\ncaf\u00e9.onnx\n".encode("latin-1"))
    assert main(["verify", file, "--suspects", str(tmp_path / "list.csv")]) == 2
    assert "expected a CSV file in UTF-8 for --suspects" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_fingerprint_is_an_error(tmp_path, capsys):
    (tmp_path / "fp.safetensors").write_bytes(b"no")
    assert main(["verify", str(tmp_path / "fp.safetensors"), "x.onnx"]) == 1
    assert "expected a whole safetensors file" in capsys.readouterr().err
    assert main(["verify", "x.onnx", str(tmp_path / "fp.safetensors")]) == 2
    assert "got 'x.onnx' first: swap them" in capsys.readouterr().err


def test_a_suspect_that_changes_its_inputs_leaves_the_queries_as_they_were(made):
    before = made.digest
    rates = {verify(made, lambda x: tiny.tables().target(x.sub_(0.5)), repeat=3).rate for _ in range(3)}
    assert len(rates) == 1
    assert made.digest == before


def test_answers_that_change_are_asked_again_and_said(made):
    noise = torch.Generator().manual_seed(0)

    def unsteady(size):
        def model(x):
            answers = tiny.tables().target(x)
            return (answers + size * torch.rand(answers.shape, generator=noise)).log().softmax(1)

        return model

    verdict = verify(made, unsteady(0.02), repeat=3)
    assert verdict.derived
    assert "answers change: asked 5 times" in verdict.remarks[0]
    assert verdict.queries == 20 + 3 + 4 * 20
    assert verify(made, tiny.tables().target, repeat=3).remarks == ()


def test_answers_whose_verdict_changes_are_no_verdict(made):
    ensemble, calls = tiny.tables(), []

    def either(x):
        calls.append(1)
        return (ensemble.target if len(calls) % 2 else ensemble.negatives[0])(x)

    with pytest.raises(SuspectError, match="got other ones each time"):
        verify(made, either, repeat=3)


def test_a_list_is_judged_resumed_and_counted(file, tmp_path, capsys):
    ensemble = tiny.tables()
    out, names = tmp_path / "verdicts.csv", tmp_path / "list.csv"
    with serving(ensemble.positives[0]) as stolen, serving(ensemble.negatives[0]) as own:
        urls = [f"{stolen.url}/v2/models/m", f"{own.url}/v2/models/m", f"{own.url}/invocations"]
        names.write_text("suspect,note\n" + "\n".join(f"{url},x" for url in urls) + "\ngone.onnx,y\n")
        command = ["verify", file, "--suspects", str(names), "--out", str(out), "--ledger", str(tmp_path / "books")]
        assert main([*command, "--jobs", "3"]) == 10
        said = capsys.readouterr().out
        assert "4 suspects: 1 evidence of copying, 2 no evidence of copying, 1 could not complete" in said
        asked = sum(stolen.delivered.values()) + sum(own.delivered.values())
        assert asked == 3 * 23
        assert main(command) == 10
        assert sum(stolen.delivered.values()) + sum(own.delivered.values()) == asked
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["suspect"]: row["verdict"] for row in rows} == {
        urls[0]: "evidence of copying",
        urls[1]: "no evidence of copying",
        urls[2]: "no evidence of copying",
        str(tmp_path / "gone.onnx"): "could not complete",
    }
    assert len(list((tmp_path / "books").glob("*.jsonl"))) == 3


def test_a_list_that_was_killed_goes_on(file, tmp_path, capsys):
    ensemble, out, names = tiny.tables(), tmp_path / "out.csv", tmp_path / "list.csv"
    with serving(ensemble.positives[0]) as stolen, serving(ensemble.negatives[0]) as own:
        urls = [f"{server.url}/v2/models/m" for server in (stolen, own)]
        names.write_text("\n".join(["suspect", *urls]), encoding="utf-8-sig")  # as spreadsheets write it
        command = ["verify", file, "--suspects", str(names), "--out", str(out), "--jobs", "1"]
        out.write_bytes(b"")
        assert main(command) == 10
        whole = out.read_bytes()
        out.write_bytes(whole[:-30])
        assert main([*command, "--timeout", "20", "--rate", "1000"]) == 10  # asked more slowly it is the same campaign
        assert "2 suspects: 1 evidence of copying, 1 no evidence" in capsys.readouterr().out
        assert (sum(stolen.delivered.values()), sum(own.delivered.values())) == (23, 2 * 23)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert sorted(row["suspect"] for row in rows) == sorted(urls)
    out.write_text(out.read_text().replace(urls[0], f"{urls[0]}/\x85"))  # a line's end to some, not to CSV
    assert main([*command, "--attempts", "1"]) == 1  # the first is asked again, but its server is gone
    assert "1 no evidence of copying, 1 could not complete" in capsys.readouterr().out
    for content in (b"suspect,verdict\r\n", b"\xff\xfe\n", b'a,"' + b"x" * 140_000 + b'"\n', b'{"mine": 1}'):
        out.write_bytes(content)
        assert main(command) == 2
        assert "choose another --out" in capsys.readouterr().err
        assert out.read_bytes() == content


def test_an_interrupted_list_keeps_the_verdicts_that_were_under_way(made, tmp_path, capsys):
    ensemble, out = tiny.tables(), tmp_path / "out.csv"
    with serving(ensemble.positives[0]) as first, serving(ensemble.negatives[0]) as second:
        urls = [f"{first.url}/v2/models/m", f"{second.url}/v2/models/m"]

        def interrupt(_):
            raise KeyboardInterrupt

        said = []
        with pytest.raises(KeyboardInterrupt):
            list(judge_all(made, iter(urls), Access(), out=out, progress=interrupt, interrupted=lambda: said.append(1)))
    assert said == [1]
    assert sorted(row["suspect"] for row in csv.DictReader(out.read_text().splitlines())) == sorted(urls)


def test_an_interrupted_list_does_not_wait_for_a_server_that_wants_to_be_left_alone(made, tmp_path):
    ensemble, out, began = tiny.tables(), tmp_path / "out.csv", time.monotonic()
    with serving(ensemble.positives[0]) as first, serving(ensemble.positives[1], iter(["429 much later"])) as busy:
        urls = [f"{first.url}/v2/models/m", f"{busy.url}/v2/models/m"]

        def interrupt(_):
            while not busy.met:
                time.sleep(0.01)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(judge_all(made, iter(urls), Access(), out=out, progress=interrupt))
        assert time.monotonic() - began < 250
        verdicts = {row["suspect"]: row["verdict"] for row in csv.DictReader(out.read_text().splitlines())}
        assert verdicts == {urls[0]: "evidence of copying", urls[1]: "could not complete"}
        (outcome,) = (each for each in judge_all(made, iter(urls), Access(), out=out) if not each.earlier)
        assert (outcome.suspect, outcome.word) == (urls[1], "evidence of copying")  # asked again


def test_a_list_that_breaks_off_keeps_the_verdicts_that_were_under_way(made, tmp_path):
    def names(url):
        yield url
        raise UsageError("expected a list")

    with serving(tiny.tables().target) as server, pytest.raises(UsageError):
        list(judge_all(made, names(f"{server.url}/v2/models/m"), Access(), out=tmp_path / "out.csv"))
    assert len(list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))) == 1


def test_ctrl_c_is_said_and_exits_with_130(file, tmp_path):
    def slow(x):
        time.sleep(0.2)
        return tiny.tables().target(x)

    with serving(slow) as server:
        command = ["verify", file, f"{server.url}/v2/models/m", "--batch", "1"]
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in a shell's background ignore it
        run = subprocess.Popen(
            [sys.executable, "-m", "metav.cli", *command], stderr=subprocess.PIPE, text=True, preexec_fn=heeds
        )
        while not server.delivered and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert said.startswith("metav: interrupted: run the same command again")


def test_a_file_that_is_another_one_now_is_asked_again(file, tmp_path, capsys):
    ensemble, suspect = tiny.tables(), tmp_path / "[old]" / "m.onnx"
    suspect.parent.mkdir()
    (tmp_path / "list.csv").write_text("suspect\n[old]/m.onnx\n")
    command = ["verify", file, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out.csv")]
    command += ["--ledger", str(tmp_path / "books")]
    for model, code in ((ensemble.positives[0], 10), (ensemble.negatives[0], 0), (ensemble.negatives[0], 0)):
        torch.onnx.export(model, (torch.zeros(23, 6),), suspect, dynamo=True, verbose=False)
        assert main(command) == code
        said = capsys.readouterr().out
        assert f"1 suspects: {code // 10} evidence of copying" in said
        assert "[old]/m.onnx" in said
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 2  # the same file is not asked again


def test_a_second_fingerprint_has_ledgers_of_its_own_in_the_same_folder(file, tmp_path):
    other = get("metav(iterations=5)").construct(tiny.tables(), queries=20, seed=1)
    other.save(tmp_path / "other.safetensors")
    with serving(tiny.tables().target) as server:
        (tmp_path / "list.csv").write_text(f"suspect\n{server.url}/v2/models/m\n")
        for index, fingerprint in enumerate((file, str(tmp_path / "other.safetensors"))):
            command = ["--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / f"{index}.csv")]
            main(["verify", fingerprint, *command, "--ledger", str(tmp_path / "books")])
            assert "could not" not in (tmp_path / f"{index}.csv").read_text()
    assert len(list((tmp_path / "books").glob("*.jsonl"))) == 2


def test_a_table_of_verdicts_belongs_to_one_fingerprint(made, file, tmp_path, capsys):
    other = get("metav(iterations=5)").construct(tiny.tables(), queries=20, seed=1)
    other.save(tmp_path / "other.safetensors")
    with serving(tiny.tables().target) as server:
        url = f"{server.url}/v2/models/m"
        (tmp_path / "list.csv").write_text(f"suspect\n{url}\n{url}\n")
        command = ["--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out.csv")]
        assert main(["verify", file, *command]) == 10
        assert "1 suspects: 1 evidence" in capsys.readouterr().out
        assert sum(server.delivered.values()) == 23
    (tmp_path / "list.csv").write_text("suspect\ngone.onnx\n")
    assert main(["verify", file, *command]) == 1  # what is not in the list is not counted
    assert "1 suspects: 0 evidence of copying, 0 no evidence of copying, 1 could" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "other.safetensors"), *command]) == 2
    assert "expected verdicts of this fingerprint" in " ".join(capsys.readouterr().err.split())


def test_a_suspect_of_logits_is_steady_even_if_the_first_ones_look_like_probabilities(made):
    weight = torch.zeros(20, 3)
    weight[3:] = 5 * torch.randn(17, 3, generator=torch.Generator().manual_seed(0))

    def logits(x):
        return torch.full((len(x), 3), 0.9) if len(x) == 3 else torch.cat([torch.full((3, 3), 0.9), weight[3:]])

    assert verify(made, logits, repeat=3).remarks[0] == "logits: softmax was applied"
    assert not any("answers change" in remark for remark in verify(made, logits, repeat=3).remarks)


def test_a_list_needs_its_column_and_verdicts_their_own_file(file, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("model\na.onnx\n")
    assert main(["verify", file, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "o.csv")]) == 2
    assert "with a column suspect" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("suspect\n\n")
    assert main(["verify", file, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "o.csv")]) == 2
    assert "expected suspects in" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("suspect\na.onnx\n")
    command = ["verify", file, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "list.csv")]
    assert main(command) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_text() == "suspect\na.onnx\n"


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


def test_classes_as_yes_and_no_may_change_too(made):
    noise, asked = torch.Generator().manual_seed(0), []

    def wavering(x):
        asked.append(len(x))
        return torch.rand(len(x), generator=noise) < 0.5

    with suppress(SuspectError):  # whatever the verdict is
        verify(made, wavering, repeat=3)
    assert asked == [len(made.queries), 3, *4 * [len(made.queries)]]


def test_numbers_far_from_zero_that_change_are_noticed():
    made = get("metav(iterations=20)").construct(tiny.regressors(), queries=20, seed=0)
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return 2000 + torch.randn(len(x), *made.spec.output_shape, generator=generator)

    assert made.score(noise(made.queries)) == pytest.approx(0, abs=1e-3)
    assert "answers change: asked 5 times" in verify(made, noise, repeat=3).remarks[0]
    assert verify(made, lambda x: 2000 + x[:, :2].expand(len(x), *made.spec.output_shape), repeat=3).remarks == ()


@pytest.mark.parametrize(("spoil", "words"), [(lambda x: x * torch.nan, "got NaN"), (lambda x: x[:1], "got 1")])
def test_second_answers_that_cannot_be_used_are_no_verdict(made, spoil, words):
    calls = []

    def model(x):
        calls.append(len(x))
        answers = tiny.tables().target(x)
        return answers if len(calls) == 1 else spoil(answers)

    with pytest.raises(SuspectError, match=words):
        verify(made, model, repeat=3)
    assert calls == [20, 3]


def test_those_that_are_accused_stand_first_in_the_table(file, tmp_path, capsys):
    out, names = tmp_path / "verdicts.csv", tmp_path / "list.csv"
    with serving(tiny.tables().negatives[0]) as innocent, serving(tiny.tables().target) as server:
        own, stolen = (f"{each.url}/v2/models/m" for each in (innocent, server))
        for gone, more in ((1, ""), (30, "Thefilealonehas12more.")):
            names.write_text("\n".join(["suspect", own, *(f"gone{index}.onnx" for index in range(gone)), stolen]))
            assert main(["verify", file, "--suspects", str(names), "--out", str(out)]) == 10
            said = "".join(capsys.readouterr().out.split())
            assert ("Thefilealone" in said) == bool(more)
            assert more in said
            assert said.index("evidenceofcopying") < said.index("couldnotcomplete")
            assert ("│noevidence" in said) == (not more)


def test_of_several_rows_for_one_suspect_the_last_counts(file, tmp_path, capsys):
    out, names = tmp_path / "verdicts.csv", tmp_path / "list.csv"
    with serving(tiny.tables().target) as server:
        names.write_text(f"suspect\n{server.url}/v2/models/m\n")
        command = ["verify", file, "--suspects", str(names), "--out", str(out)]
        assert main(command) == 10
        (row,) = csv.DictReader(out.read_text().splitlines())
        with out.open("a", newline="") as file_:
            csv.DictWriter(file_, list(row)).writerow({**row, "verdict": "could not complete"})
        asked = sum(server.delivered.values())
        assert main(command) == 10
        assert sum(server.delivered.values()) == 2 * asked
    assert [row["verdict"] for row in csv.DictReader(out.read_text().splitlines())][-1] == "evidence of copying"


def test_two_lists_do_not_write_one_file(made, tmp_path):
    with serving(tiny.tables().target) as server:
        urls = [f"{server.url}/v2/models/m", f"{server.url}/invocations"]
        first, second = (judge_all(made, iter(urls), Access(), out=tmp_path / "v.csv") for _ in range(2))
        next(first)
        with pytest.raises(SettingsError, match="in use by another run"):
            next(second)
        assert len(list(first)) == 1
        third = judge_all(made, iter(urls), Access(), out=tmp_path / "v.csv")
        assert all(outcome.earlier for outcome in third)


def test_no_verdict_is_lost_to_a_letter_that_a_terminal_lacks(file, tmp_path):
    ledger = str(tmp_path / "bé.jsonl")
    with serving(tiny.tables().target) as server:
        assert main(["verify", file, f"{server.url}/v2/models/é", "--ledger", ledger]) == 10
    command = [sys.executable, "-m", "metav.cli", "verify", file, "--ledger", ledger]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 10
    assert r"models/\xe9: evidence of copying" in done.stdout


def test_a_suspect_that_gives_the_same_answer_to_all_is_remarked_on(made):
    made = replace(made, reference=tiny.tables().target(made.queries).detach())
    constant = verify(made, lambda x: torch.tensor([[0.5, 0.3, 0.2]]).repeat(len(x), 1))
    assert constant.remarks[0].startswith("nearly the same answer to every query")
    assert verify(made, tiny.tables().target).remarks == ()


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


def test_evidence_against_answers_that_hardly_follow_the_target_s_is_remarked_on(made):
    made = replace(made, reference=tiny.tables().target(made.queries).detach(), threshold=0.0)  # accuses everybody
    (remark,) = verify(made, lambda x: torch.rand(len(x), 3).softmax(1)).remarks
    assert remark.startswith("answers hardly follow the target's (correlation ")
    assert verify(made, tiny.tables().target).remarks == ()
    assert verify(replace(made, threshold=1.0), lambda x: torch.rand(len(x), 3).softmax(1)).remarks == ()


def test_a_fingerprint_without_the_target_s_answers_says_what_was_not_checked(made):
    (remark,) = verify(replace(made, reference=None), tiny.tables().target).remarks
    assert remark.startswith("the order of classes was not checked")


def test_noise_in_the_smaller_of_two_values_is_noticed():
    size = torch.tensor([1.0, 50_000.0])
    first = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * size
    second = first + torch.tensor([0.5, 0.0])
    assert verification._changed(first, second[:3], each=True)
    assert not verification._changed(first, first[:3] * (1 + 1e-6), each=True)


@pytest.mark.parametrize("answer", [{"logits": 1}, ["cat"], (torch.zeros(3), torch.zeros(2))])
def test_what_is_no_array_is_refused_in_one_sentence(made, answer):
    with pytest.raises(SuspectError, match="expected an array of numbers from the model, got "):
        verify(made, lambda x: answer)


@pytest.mark.parametrize("scheme", ["metav(iterations=2)", "liteguard(iterations=2)"])
def test_a_target_without_gradients_is_refused_by_schemes_that_need_them(scheme):
    whole = tiny.regressors()
    rounded = replace(whole, target=lambda x: whole.target(x.detach()))
    with pytest.raises(SuspectError, match="expected a target that gives gradients by its inputs for "):
        get(scheme).construct(rounded, queries=4, seed=0)
