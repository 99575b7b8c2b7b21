"""Lists of suspects: resumed, killed, interrupted, and one table of verdicts."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

import tiny
from metav.access import Access
from metav.campaign import judge_all
from metav.cli import main
from metav.errors import SettingsError, UsageError
from metav.schemes import get
from misbehaving import serving


def test_a_table_in_a_folder_that_cannot_be_is_said(file, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("suspect\na.onnx\n")
    (tmp_path / "page.md").write_text("no folder")
    listed = ["--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "page.md" / "verdicts.csv")]
    assert main(["verify", file, *listed]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "expected a folder that can be written to, got" in said
    assert "choose another with --out." in said


def test_a_list_in_another_encoding_is_named_as_such(file, tmp_path, capsys):
    (tmp_path / "list.csv").write_bytes("suspect\ncaf\u00e9.onnx\n".encode("latin-1"))
    assert main(["verify", file, "--suspects", str(tmp_path / "list.csv")]) == 2
    assert "expected a CSV file in UTF-8 for --suspects" in " ".join(capsys.readouterr().err.split())


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


def test_a_full_disk_is_said_with_the_file_of_the_verdicts(file, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "list.csv").write_text("suspect\ngone.onnx\n")
    monkeypatch.setattr(csv.DictWriter, "writerow", full)
    command = ["verify", file, "--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / "v.csv")]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"expected to write {str(tmp_path / 'v.csv')!r}, got 'No space left on device': make room, and run" in said


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


def test_an_interrupted_list_keeps_the_verdicts_that_were_under_way(fingerprint, tmp_path, capsys):
    ensemble, out = tiny.tables(), tmp_path / "out.csv"
    with serving(ensemble.positives[0]) as first, serving(ensemble.negatives[0]) as second:
        urls = [f"{first.url}/v2/models/m", f"{second.url}/v2/models/m"]

        def interrupt(_):
            raise KeyboardInterrupt

        said = []
        with pytest.raises(KeyboardInterrupt):
            list(
                judge_all(
                    fingerprint, iter(urls), Access(), out=out, progress=interrupt, interrupted=lambda: said.append(1)
                )
            )
    assert said == [1]
    assert sorted(row["suspect"] for row in csv.DictReader(out.read_text().splitlines())) == sorted(urls)


def test_an_interrupted_list_does_not_wait_for_a_server_that_wants_to_be_left_alone(fingerprint, tmp_path):
    ensemble, out, began = tiny.tables(), tmp_path / "out.csv", time.monotonic()
    with serving(ensemble.positives[0]) as first, serving(ensemble.positives[1], iter(["429 much later"])) as busy:
        urls = [f"{first.url}/v2/models/m", f"{busy.url}/v2/models/m"]

        def interrupt(_):
            while not busy.met:
                time.sleep(0.01)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(judge_all(fingerprint, iter(urls), Access(), out=out, progress=interrupt))
        assert time.monotonic() - began < 250
        verdicts = {row["suspect"]: row["verdict"] for row in csv.DictReader(out.read_text().splitlines())}
        assert verdicts == {urls[0]: "evidence of copying", urls[1]: "could not complete"}
        (outcome,) = (each for each in judge_all(fingerprint, iter(urls), Access(), out=out) if not each.earlier)
        assert (outcome.suspect, outcome.word) == (urls[1], "evidence of copying")  # asked again


def test_a_list_that_breaks_off_keeps_the_verdicts_that_were_under_way(fingerprint, tmp_path):
    def names(url):
        yield url
        raise UsageError("expected a list")

    with serving(tiny.tables().target) as server, pytest.raises(UsageError):
        list(judge_all(fingerprint, names(f"{server.url}/v2/models/m"), Access(), out=tmp_path / "out.csv"))
    assert len(list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))) == 1


def test_ctrl_c_is_said_and_exits_with_130(file, tmp_path):
    def slow(x):
        time.sleep(0.2)
        return tiny.tables().target(x)

    with serving(slow) as server:
        command = ["verify", file, f"{server.url}/v2/models/m", "--batch", "1"]
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in a shell's background ignore it
        run = subprocess.Popen(
            [sys.executable, "-m", "metav", *command], stderr=subprocess.PIPE, text=True, preexec_fn=heeds
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
        for index, made in enumerate((file, str(tmp_path / "other.safetensors"))):
            command = ["--suspects", str(tmp_path / "list.csv"), "--out", str(tmp_path / f"{index}.csv")]
            main(["verify", made, *command, "--ledger", str(tmp_path / "books")])
            assert "could not" not in (tmp_path / f"{index}.csv").read_text()
    assert len(list((tmp_path / "books").glob("*.jsonl"))) == 2


def test_a_table_of_verdicts_belongs_to_one_fingerprint(fingerprint, file, tmp_path, capsys):
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


def test_those_that_are_accused_stand_first_in_the_table(file, tmp_path, capsys):
    out, names = tmp_path / "verdicts.csv", tmp_path / "list.csv"
    with serving(tiny.tables().negatives[0]) as innocent, serving(tiny.tables().target) as server:
        own, stolen = (f"{each.url}/v2/models/m" for each in (innocent, server))
        for gone, more in ((1, ""), (30, "12moreareinthefilealone.")):
            names.write_text("\n".join(["suspect", own, *(f"gone{index}.onnx" for index in range(gone)), stolen]))
            assert main(["verify", file, "--suspects", str(names), "--out", str(out)]) == 10
            said = "".join(capsys.readouterr().out.split())
            assert ("inthefilealone" in said) == bool(more)
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


def test_two_lists_do_not_write_one_file(fingerprint, tmp_path):
    with serving(tiny.tables().target) as server:
        urls = [f"{server.url}/v2/models/m", f"{server.url}/invocations"]
        first, second = (judge_all(fingerprint, iter(urls), Access(), out=tmp_path / "v.csv") for _ in range(2))
        next(first)
        with pytest.raises(SettingsError, match="in use by another run"):
            next(second)
        assert len(list(first)) == 1
        third = judge_all(fingerprint, iter(urls), Access(), out=tmp_path / "v.csv")
        assert all(outcome.earlier for outcome in third)


def test_no_verdict_is_lost_to_a_letter_that_a_terminal_lacks(file, tmp_path):
    ledger = str(tmp_path / "bé.jsonl")
    with serving(tiny.tables().target) as server:
        assert main(["verify", file, f"{server.url}/v2/models/é", "--ledger", ledger]) == 10
    command = [sys.executable, "-m", "metav", "verify", file, "--ledger", ledger]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 10
    assert r"models/\xe9: evidence of copying" in done.stdout
