"""An interrupted benchmark loses the cells it was at; what is kept is used for the same cell alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pandas as pd
import pytest

from metav import cells, schemes
from metav.cells import Cell, CellResult, Score
from metav.cli import main
from metav.scenarios.base import Merit
from metav.schemes import MetaV
from metav.zoo import Zoo

SLOW = "metav(iterations=600)"
CELL = Cell(scheme=SLOW, repetition=0, queries=8)


def command(zoo, out, *options):
    where = ["--profile", "smoke", "--zoo", str(zoo.folder), "--out", str(out)]
    return ["bench", "warfarin", *where, "--scheme", SLOW, "--repeats", "5", "--queries", "8", "--jobs", "1", *options]


def kept(home):
    return {path: path.stat().st_mtime_ns for path in sorted((home / "cells").rglob("[!.]*.json"))}


def test_a_killed_bench_goes_on_where_it_was(smoke_zoo, tmp_path, monkeypatch):
    home, out = tmp_path / "home", tmp_path / "out"
    monkeypatch.setenv("METAV_HOME", str(home))
    process = subprocess.Popen([sys.executable, "-m", "metav.cli", *command(smoke_zoo, out)], env=dict(os.environ))
    until = time.monotonic() + 60
    while not kept(home) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(home)
    assert 1 <= len(before) < 5
    assert not (out / "results.json").exists()
    assert main(command(smoke_zoo, out)) == 0
    after = kept(home)
    assert len(after) == 5
    assert before.items() <= after.items()
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "other"))
    assert main(command(smoke_zoo, tmp_path / "anew")) == 0
    resumed, anew = (pd.read_csv(folder / "scores.csv") for folder in (out, tmp_path / "anew"))
    pd.testing.assert_frame_equal(resumed, anew)


RESULT = CellResult(
    cell=CELL,
    scores=(
        Score(
            scheme=SLOW,
            queries=8,
            models=0,
            left_out="",
            view="",
            repetition=0,
            lineage="target>wp(0.1)",
            family="WP",
            positive=True,
            rate=0.1 + 0.2,
            threshold=0.5,
            useful=True,
            quality={"error": 1.0},
        ),
    ),
    construct_seconds=1.5,
    verify_seconds=0.25,
)


def test_what_is_kept_is_what_was_found(tmp_path):
    file = tmp_path / "new" / "cell.json"
    assert cells.load(file) is None
    cells.save(file, RESULT)
    assert cells.load(file) == RESULT


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"cell": {"x": 1}, "scores": []}', b"\xff"])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    file = tmp_path / "cell.json"
    file.write_bytes(content)
    assert cells.load(file) is None


@dataclass(frozen=True, kw_only=True)
class Elsewhere(MetaV):
    """A scheme whose code is in this file."""


def test_a_name_for_all_that_a_result_depends_on(smoke_zoo, monkeypatch):
    monkeypatch.setitem(schemes.SCHEMES, "elsewhere", Elsewhere)
    others = [
        replace(CELL, repetition=1),
        replace(CELL, queries=9),
        replace(CELL, models=2),
        replace(CELL, scheme="metav"),
        replace(CELL, scheme="elsewhere"),
        replace(CELL, protocol="api"),
        replace(CELL, protocol="unseen-obfuscation", left_out="WP"),
        replace(CELL, protocol="unseen-obfuscation", left_out="FT"),
    ]
    names = {cells.path(smoke_zoo, cell) for cell in [CELL, *others]}
    assert len(names) == 9
    for change in ({"views": {}}, {"merit": Merit(name="agreement", more=True)}):
        zoo = Zoo(replace(smoke_zoo.scenario, **change), smoke_zoo.folder)
        assert cells.path(zoo, CELL) not in names
    record = smoke_zoo.record
    changed = smoke_zoo.lineages()[-1]
    monkeypatch.setattr(
        smoke_zoo, "record", lambda text: replace(record(text), digest="0" * 64) if text == changed else record(text)
    )
    assert cells.path(smoke_zoo, CELL) not in names
