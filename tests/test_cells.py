"""An interrupted benchmark loses the cells it was at; what is kept is used for the same cell alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from metav import benchmark, building, cells, protocols, report, results, schemes, sources
from metav.cells import Cell, CellResult, Score
from metav.cli import main
from metav.errors import MetavError, StorageError
from metav.paper import learning
from metav.scenarios.base import Merit
from metav.schemes import MetaV
from metav.zoo import Zoo
from metav.zoo_files import Record

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
    process = subprocess.Popen([sys.executable, "-m", "metav", *command(smoke_zoo, out)], env=dict(os.environ))
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
            refused=False,
            quality={"error": 1.0},
        ),
    ),
    construct_seconds=1.5,
    verify_seconds=0.25,
)


def test_what_is_kept_is_what_was_found(tmp_path):
    file = tmp_path / "new" / "cell.json"
    assert cells.load(file, CELL) is None
    cells.save(file, RESULT)
    assert cells.load(file, CELL) == RESULT


def test_no_figure_of_quality_takes_anothers_place():
    names = {each.name for kind in (Score, Record) for each in fields(kind)}
    assert set(building.RESERVED) == {*names, "derived", "family", "truly"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"cell": {"x": 1}, "scores": []}', b"\xff"])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    file = tmp_path / "cell.json"
    file.write_bytes(content)
    assert cells.load(file, CELL) is None


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
    names = {each.result for each in cells.paths(smoke_zoo, [CELL, *others]).values()}
    assert len(names) == 9
    suspects = smoke_zoo.scenario.suspects
    flipped = (*suspects[:-1], replace(suspects[-1], positive=not suspects[-1].positive))
    for change in (
        {"views": {}},
        {"merit": Merit(name="agreement", more=True)},
        {"suspects": suspects[::-1]},
        {"suspects": flipped},
    ):
        zoo = Zoo(replace(smoke_zoo.scenario, **change), smoke_zoo.folder)
        assert cells.paths(zoo, [CELL])[CELL].result not in names
    record = smoke_zoo.record
    changed = smoke_zoo.lineages()[-1]
    monkeypatch.setattr(
        smoke_zoo, "record", lambda text: replace(record(text), digest="0" * 64) if text == changed else record(text)
    )
    assert cells.paths(smoke_zoo, [CELL])[CELL].result not in names


def broken(*, at):
    """A scheme's `construct` that fails in one repetition."""

    @dataclass(frozen=True, kw_only=True)
    class Broken(MetaV):
        def construct(self, ensemble, *, queries, seed):
            if seed in at:
                raise ValueError("no\nluck")
            return super().construct(ensemble, queries=queries, seed=seed)

    return Broken


def test_a_cell_that_fails_is_reported_and_does_not_stop_the_others(smoke_zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(schemes.SCHEMES, "broken", broken(at=(1,)))
    monkeypatch.setitem(schemes.SCHEMES, "lost", broken(at=(0, 1, 2)))
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--jobs", "1"]
    options = ["--repeats", "3", "--queries", "4", "--scheme", "lost(iterations=2)", "broken(iterations=2)"]
    assert main(["bench", "warfarin", *where, *options, "akh"]) == 1
    message = "expected a fingerprint and rates, got ValueError (no luck): see its traceback in failures.txt."
    assert f"broken(iterations=2), 4 queries, repetition 1: {message}" in capsys.readouterr().err
    found, lost, akh = json.loads((tmp_path / "results.json").read_text())
    assert len(found["aruc"]["values"]) == 2
    assert found["failed"] == [{"repetition": 1, "error": message}]
    assert (found["repeats"], found["seeds"], lost["repeats"], lost["seeds"]) == (2, [0, 2], 0, [])
    assert (lost["title"], lost["aruc"], akh["failed"]) == ("lost(iterations=2)", None, [])
    assert [each["repetition"] for each in lost["failed"]] == [0, 1, 2]
    assert f"`broken(iterations=2)`, repetition 1: {message}" in (tmp_path / "report.md").read_text()
    assert len(kept(tmp_path / "home")) == 2
    assert (tmp_path / "failures.txt").read_text().count("Traceback") == 4
    assert main(["bench", "warfarin", *where, "--repeats", "1", "--scheme", "lost(iterations=2)"]) == 1
    said = capsys.readouterr().err
    assert "expected a fingerprint and rates, got ValueError" in said
    assert f"{tmp_path / 'report.md'} is of an earlier run." in "".join(said.split("\n"))


def test_figures_of_an_earlier_run_do_not_stay_and_others_do(smoke_zoo, tmp_path):
    own = tmp_path / "own.svg"
    own.touch()
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--repeats", "1"]
    for scheme in ("metav(iterations=2)", "metav(iterations=3)"):
        assert main(["bench", "warfarin", *where, "--queries", "4", "--scheme", scheme]) == 0
    drawn = {path.stem for path in tmp_path.iterdir() if path.suffix in (".svg", ".png")}
    assert drawn == {"own", "warfarin-metav-iterations-3"}


def test_what_fails_of_several_numbers_is_named_with_its_own(smoke_zoo, tmp_path, capsys):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--repeats", "1"]
    options = ["--queries", "4", "5000", "--scheme", "cohort(real=10,pool=10)", "metav(iterations=2)"]
    assert main(["bench", "warfarin", *where, *options]) == 1
    assert "cohort(real=10,pool=10), 5000 queries, repetition 0: " in " ".join(capsys.readouterr().err.split())
    titles = [row["title"] for row in json.loads((tmp_path / "results.json").read_text())]
    assert "cohort(real=10,pool=10), 5000 queries" in titles


def test_what_is_all_there_may_be_where_nobody_can_write(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    first = benchmark.run(
        smoke_zoo, benchmark.planned(smoke_zoo, ["metav(iterations=2)"], repeats=1, queries=[4]), jobs=1
    )
    monkeypatch.setattr(benchmark, "make_folder", lambda _: pytest.fail("a folder was made"))
    assert (
        benchmark.run(smoke_zoo, benchmark.planned(smoke_zoo, ["metav(iterations=2)"], repeats=1, queries=[4]), jobs=1)
        == first
    )


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_constructed(smoke_zoo, monkeypatch):
    monkeypatch.setenv("METAV_HOME", "/dev/null/home")
    monkeypatch.setattr(MetaV, "construct", lambda *_, **__: pytest.fail("constructed"))
    with pytest.raises(StorageError, match="expected a folder that can be written to"):
        benchmark.run(smoke_zoo, benchmark.planned(smoke_zoo, ["metav(iterations=2)"], repeats=1, queries=[4]), jobs=1)


def test_the_split_of_each_repetition_is_in_the_results(smoke_zoo, tmp_path):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path)]
    assert main(["bench", "warfarin", *where, "--jobs", "1", "--repeats", "2", "--scheme", "metav(iterations=2)"]) == 0
    scores = pd.read_csv(tmp_path / "scores.csv")
    splits = json.loads((tmp_path / "splits.json").read_text())
    assert [each["repetition"] for each in splits] == [0, 1]
    for each in splits:
        tested = scores[scores.repetition == each["repetition"]].lineage
        assert tested.tolist() == each["test"]
        both = [*each["construction"], *each["test"]]
        assert sorted(both) == sorted(suspect.lineage for suspect in smoke_zoo.scenario.suspects)


def test_protocols_that_construct_alike_construct_once(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    cell = Cell(scheme="metav(iterations=20)", repetition=1, queries=6)
    kept = cells.paths(smoke_zoo, [cell])[cell].fingerprint
    first = benchmark.run_cell(smoke_zoo, cell, kept)
    monkeypatch.setattr(MetaV, "construct", lambda *_, **__: pytest.fail("constructed again"))
    api = replace(cell, protocol="api")
    again = benchmark.run_cell(smoke_zoo, api, cells.paths(smoke_zoo, [api])[api].fingerprint)
    assert again.construct_seconds == first.construct_seconds
    assert [score.rate for score in again.scores if not score.view] == [score.rate for score in first.scores]
    kept.write_bytes(b"damaged")
    with pytest.raises(pytest.fail.Exception, match="constructed again"):
        benchmark.run_cell(smoke_zoo, cell, kept)
    others = [replace(cell, protocol="unseen-obfuscation", left_out="WP"), replace(cell, models=3)]
    assert kept not in {each.fingerprint for each in cells.paths(smoke_zoo, others).values()}


@pytest.mark.parametrize(("scheme", "same"), [("akh", 1), ("metav", 3), ("cohort", 3)])
def test_what_thefts_are_left_out_is_the_same_to_schemes_that_learn_from_none(smoke_zoo, scheme, same):
    cell = Cell(scheme=scheme, repetition=1, queries=6)
    ways = [cell, *(replace(cell, protocol="unseen-obfuscation", left_out=name) for name in ("WP", "FT"))]
    paths = cells.paths(smoke_zoo, [*ways, other := replace(cell, protocol="unseen-architecture", left_out="S")])
    assert len({paths[each].fingerprint for each in ways}) == same
    assert len({each.result for each in paths.values()}) == 4
    assert paths[other].fingerprint not in {paths[each].fingerprint for each in ways}
    met = [protocols.divide(smoke_zoo.scenario, each.protocol, each.left_out, each.repetition)[0] for each in ways]
    assert len({tuple(suspect for suspect in half if not suspect.positive) for half in met}) == 1  # in one order


def test_again_makes_fingerprints_anew_too(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    made = []
    whole = MetaV.construct
    monkeypatch.setattr(MetaV, "construct", lambda *a, **k: made.append(1) or whole(*a, **k))

    def run(protocol: str, *, again: bool) -> None:
        wanted = benchmark.planned(smoke_zoo, ["metav(iterations=2)"], repeats=1, queries=[4], protocol=protocol)
        benchmark.run(smoke_zoo, wanted, jobs=1, again=again)

    for again, protocol in ((False, "paper"), (False, "api"), (True, "api")):
        run(protocol, again=again)
    assert len(made) == 2
    monkeypatch.setattr(MetaV, "construct", broken(at=(0,)).construct)
    for again in (True, False):  # what failed anew is not found again as it was before
        with pytest.raises(MetavError):
            run("api", again=again)


def test_a_name_depends_on_what_cohort_and_open_world_are_for(warfarin, tmp_path):
    plan, cohort = warfarin.cohort, replace(CELL, scheme="cohort")
    met = replace(CELL, protocol="open-world")

    def names(**changes):
        zoo = Zoo(replace(warfarin, **changes), tmp_path, cohort=True, open_world=True)
        return [cells.path(zoo, cell, digest=str) for cell in (CELL, cohort, met)]

    usual = names()
    other = names(cohort=replace(plan, kinds=dict(reversed(plan.kinds.items()))))
    assert [a == b for a, b in zip(usual, other, strict=True)] == [True, False, True]
    other = names(open_world=warfarin.open_world[::-1])
    assert [a == b for a, b in zip(usual, other, strict=True)] == [True, True, False]


def test_a_name_depends_on_the_code_the_libraries_and_the_zoo_s_settings(smoke_zoo, monkeypatch):
    met = replace(CELL, protocol="open-world")
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder)
    names = {cells.path(zoo, CELL, digest=str), cells.path(zoo, met, digest=str)}
    for module, name in ((sources, "CODE"), (torch, "__version__"), (np, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "another")
            assert cells.path(zoo, CELL, digest=str) not in names
    with monkeypatch.context() as patch:
        patch.setattr(cells, "LEARN", ["another"])
        assert cells.path(zoo, met, digest=str) not in names
    zoo.settings = {**zoo.settings, "method": "another"}
    assert cells.path(zoo, CELL, digest=str) not in names


def test_a_run_whose_code_has_changed_says_so(smoke_zoo, tmp_path):
    zoo = Zoo(smoke_zoo.scenario, tmp_path)
    zoo.code = "other"  # that of the process which opened it
    words = "expected the code that the run began with, got changed files: start it again."
    kept = cells.CellFiles(result=tmp_path / "cell.json", fingerprint=tmp_path / "cell.safetensors")
    assert benchmark._run_and_keep(zoo, (CELL, kept)).error == words
    assert learning._kept(zoo, CELL).error == words
    with pytest.raises(MetavError, match=words):
        building.build_group(zoo, ["target"])


def test_what_is_of_another_cell_or_was_edited_is_computed_again(tmp_path):
    file = tmp_path / "cell.json"
    cells.save(file, RESULT)
    assert cells.load(file, replace(CELL, repetition=1)) is None
    file.write_text(file.read_text().replace('"rate": 0.3', '"rate": 0.4'))
    assert cells.load(file, CELL) is None


def test_a_report_that_is_cut_short_is_none(smoke_zoo, tmp_path, monkeypatch):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--repeats", "1"]
    assert main(["bench", "warfarin", *where, "--queries", "4", "--scheme", "metav(iterations=2)"]) == 0
    monkeypatch.setattr(report.figures, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["bench", "warfarin", *where, "--queries", "4", "--scheme", "metav(iterations=3)"]) == 130
    assert not (tmp_path / "results.json").exists()


def test_suspects_that_allow_no_verdict_are_counted(smoke_zoo, tmp_path, monkeypatch):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--repeats", "1"]
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    silent = smoke_zoo.scenario.parts["public"].x.new_full((4, 1), torch.nan)
    monkeypatch.setattr(
        benchmark,
        "of_zoo",
        lambda zoo, suspects, of=benchmark.of_zoo: [
            each if each.positive else replace(each, model=lambda _: silent) for each in of(zoo, suspects)
        ],
    )
    assert (
        main(["bench", "warfarin", *where, "--queries", "4", "--jobs", "1", "--scheme", "metav(iterations=2)", "akh"])
        == 0
    )
    row, lacking = json.loads((tmp_path / "results.json").read_text())
    assert row["refused"] == row["negatives"] > 0
    assert (lacking["refused"], lacking["positives"]) == (None, None)
    assert f"{row['refused']} times answers allow no verdict" in (tmp_path / "report.md").read_text()


def test_results_name_the_commit_that_they_were_computed_by(monkeypatch):
    monkeypatch.setattr(sources, "commit", lambda: "later")
    assert results.environment()["commit"] == sources.COMMIT != "later"


def test_figures_are_known_again_by_their_files_names(tmp_path):
    (tmp_path / report.NAME).write_text("![Rates](mine-2-metav.svg) ![Rates](other-metav.svg)")
    assert report._drawn_before(tmp_path, "Mine_2") == {"mine-2-metav"}
