"""What was answered is never lost, asked for again, changed unnoticed, or taken for another suspect's."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

import tiny
from metav.access import Access
from metav.campaign import judge
from metav.endpoints import Local
from metav.endpoints.ledger import Ledger, Recorded
from metav.errors import EndpointError, IntegrityError, SettingsError, StorageError, SuspectError
from metav.schemes import get
from metav.verification import verify
from misbehaving import serving


@pytest.fixture(scope="module")
def made():
    return get("metav(iterations=20)").construct(tiny.tables(), queries=30, seed=0)


@pytest.fixture
def kept(made, tmp_path):
    """A ledger of the target's answers, closed."""
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path, made.digest, "the target")
    verify(made, Recorded(Local(tiny.tables().target), book, 4), repeat=3)
    book.close()
    return path


def test_a_verdict_is_computed_again_from_the_ledger_alone(made, kept):
    before = kept.read_bytes()
    again = judge(made, "", Access(), kept)
    direct = verify(made, tiny.tables().target, repeat=3)
    assert (again.rate, again.queries) == (direct.rate, direct.queries)
    assert kept.read_bytes() == before


def test_a_run_goes_on_where_another_was(made, kept):
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 33
    kept.write_bytes(b"".join(lines[:20]) + lines[20][:-9])  # the last one torn, as a kill leaves it
    asked = []

    def model(x):
        asked.append(len(x))
        return tiny.tables().target(x)

    book = Ledger(kept, made.digest, "the target")
    verify(made, Recorded(Local(model), book, 4), repeat=3)
    book.close()
    assert sum(asked) == 33 - 19
    assert judge(made, "", Access(), kept).rate == verify(made, tiny.tables().target).rate


def _edited(lines):
    row = json.loads(lines[5])
    row["answer"] = [0.0, 0.0, 1.0]
    return [*lines[:5], json.dumps(row).encode() + b"\n", *lines[6:]]


@pytest.mark.parametrize(
    "damage",
    [_edited, lambda lines: lines[:5] + lines[6:], lambda lines: [*lines, lines[-1]], lambda lines: lines[1:]],
    ids=["edited", "removed", "repeated", "headless"],
)
def test_a_changed_ledger_is_noticed(made, kept, damage):
    kept.write_bytes(b"".join(damage(kept.read_bytes().splitlines(keepends=True))))
    with pytest.raises(IntegrityError, match="expected a ledger as metav wrote it"):
        judge(made, "", Access(), kept)


@pytest.mark.parametrize("content", [b'{"Authorization":"my only copy"}', b'{"content":"notes"}', b"x"])
def test_another_file_is_not_taken_for_a_torn_ledger(made, tmp_path, content):
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"expected a ledger in .*, got another file: give another file"):
        Ledger(tmp_path / "mine.json", made.digest, "the target")
    assert (tmp_path / "mine.json").read_bytes() == content


@pytest.mark.parametrize("length", [0, 1, 9, 40])
def test_a_ledger_that_was_torn_in_its_first_line_is_begun_again(made, kept, length):
    kept.write_bytes(kept.read_bytes()[:length])
    Ledger(kept, made.digest, "the target").close()
    assert kept.read_bytes().endswith(b"\n")


def test_answers_of_another_shape_are_not_kept_so_that_they_can_be_asked_for_again(made, tmp_path):
    calls = []

    def once_odd(x):
        calls.append(len(x))
        return tiny.tables().target(x)[:, : 2 if len(calls) == 3 else 3]

    for odd in (True, False):
        book = Ledger(tmp_path / "ledger.jsonl", made.digest, "the target")
        if odd:
            with pytest.raises(EndpointError, match=r"shape \(3,\) from .*, as before, got \(2,\): look"):
                verify(made, Recorded(Local(once_odd), book, 4))
        else:
            assert verify(made, Recorded(Local(once_odd), book, 4)).queries == 30
        book.close()


def test_what_was_said_of_the_inputs_is_said_of_the_ledger_too(made, tmp_path):
    with serving(tiny.tables().target) as server:
        asked = judge(made, f"{server.url}/v2/models/m", Access(box=(0, 1)), tmp_path / "ledger.jsonl")
    again = judge(made, "", Access(), tmp_path / "ledger.jsonl")
    assert again.remarks == asked.remarks
    assert "inputs between 0 and 1, as --box says" in again.remarks


def test_a_full_disk_is_said_with_the_file(made, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    book = Ledger(tmp_path / "ledger.jsonl", made.digest, "the target")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"to write .*ledger.jsonl', got No space left on device: make room"):
        book.add([("0", 0)], torch.zeros(1, 3))
    book.close()


def test_a_disk_that_is_really_full_is_said_with_the_file_and_the_ledger_let_go(made, tmp_path):
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path, made.digest, "the target")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, before[1]))
    try:
        with pytest.raises(StorageError, match=r"to write .*ledger.jsonl', got File too large: make room"):
            book.add([("0", 0)], torch.zeros(1, 3))
        book.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    Ledger(path, made.digest, "the target").close()


def test_a_ledger_belongs_to_one_fingerprint_one_suspect_and_one_process_at_a_time(made, kept, tmp_path):
    with pytest.raises(SettingsError, match="expected a ledger for the suspect another"):
        Ledger(kept, made.digest, "another")
    with pytest.raises(SettingsError, match="expected a ledger for the fingerprint 00"):
        Ledger(kept, "00", "the target")
    with pytest.raises(SettingsError, match="expected a ledger for the fingerprint 00"):
        Ledger(kept, "00", "another")
    held = Ledger(kept, made.digest, "the target")
    with pytest.raises(SettingsError, match="in use"):
        Ledger(kept, made.digest, "the target")
    held.close()
    with pytest.raises(StorageError, match="name the suspect"):
        Ledger(tmp_path / "none.jsonl", made.digest)


def test_a_ledger_keeps_answers_as_they_came_so_that_a_better_reading_needs_no_new_ones(made, tmp_path):
    def turned(x):
        return tiny.tables().target(x)[:, [2, 0, 1]]

    with serving(turned) as server:
        url = f"{server.url}/v2/models/m"
        wrong = judge(made, url, Access(), tmp_path / "ledger.jsonl").rate
        asked = sum(server.delivered.values())
        right = judge(made, url, Access(classes=(1, 2, 0)), tmp_path / "ledger.jsonl")
        assert sum(server.delivered.values()) == asked
        for other in (f"{url}?model=b", f"{server.url}/invocations"):
            with pytest.raises(SettingsError):
                judge(made, other, Access(), tmp_path / "ledger.jsonl")
        with pytest.raises(SettingsError, match="expected answers to the same requests"):
            judge(made, url, Access(box=(0, 1)), tmp_path / "ledger.jsonl")
    assert right.remarks[-1] == "classes or values at the places 1 2 0, as --classes says"
    assert right.rate == pytest.approx(verify(made, tiny.tables().target).rate, abs=1e-5)
    assert right.rate != pytest.approx(wrong, abs=1e-5)


def test_single_queries_are_each_on_disk_before_the_next(made, tmp_path):
    one = Access(request='{"instance": {"values": "$query"}}', answer="result.scores", attempts=1)
    with serving(tiny.tables().target, iter([*[""] * 15, "500"])) as server:
        with pytest.raises(EndpointError, match="status 500"):
            judge(made, f"{server.url}/score", one, tmp_path / "ledger.jsonl")
        assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 1 + 15
        judge(made, f"{server.url}/score", one, tmp_path / "ledger.jsonl")
        assert sum(server.delivered.values()) == 33


def test_an_incomplete_ledger_is_no_verdict(made, kept):
    kept.write_bytes(b"".join(kept.read_bytes().splitlines(keepends=True)[:20]))
    with pytest.raises(EndpointError, match="got only some: name the suspect too"):
        judge(made, "", Access(), kept)


def test_nan_is_kept_as_it_is(made, tmp_path):
    book = Ledger(tmp_path / "ledger.jsonl", made.digest, "nan")
    endpoint = Recorded(Local(lambda x: torch.full((len(x), 3), torch.nan)), book, 8)
    assert endpoint.query(made.queries).isnan().all()
    book.close()
    assert Ledger(tmp_path / "ledger.jsonl", made.digest).answers.keys() == book.answers.keys()


def test_killed_again_and_again_a_campaign_loses_nothing_that_it_was_given(made, tmp_path):
    made.save(tmp_path / "fp.safetensors")
    target, generator, kills = tiny.tables().target, random.Random(0), 0

    def slow(x):
        time.sleep(0.02)
        return target(x)

    with serving(slow) as server:
        command = [sys.executable, "-m", "metav", "verify", str(tmp_path / "fp.safetensors")]
        command += [f"{server.url}/v2/models/m", "--ledger", str(tmp_path / "ledger.jsonl"), "--batch", "1"]
        while True:
            run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            before = sum(server.delivered.values())
            while kills < 4 and run.poll() is None:
                if sum(server.delivered.values()) - before >= 3 + 3 * generator.random():
                    os.kill(run.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            text = run.communicate()[0]
            if run.returncode != -signal.SIGKILL:
                break
        assert kills == 4
        assert run.returncode == 10, text
        assert f"{verify(made, target).rate:.4f}" in text
        # one answer may be on its way when a process dies; all that had arrived are not asked for again
        assert 33 <= sum(server.delivered.values()) <= 33 + kills


def test_what_cannot_be_judged_is_told_with_the_ledger_that_keeps_it(made, tmp_path):
    with serving(lambda x: tiny.tables().target(x)[:, :2]) as server:
        for _ in range(2):
            with pytest.raises(
                SuspectError, match=r"apart; its answers are kept in '.*kept\.jsonl', delete it to ask again\.$"
            ):
                judge(made, f"{server.url}/v2/models/m", Access(), tmp_path / "kept.jsonl")
