"""`metav bench paper`: all of the paper's benchmarks, one after the other, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace

from metav import benchmark, cells, evaluation, paper, report, scenarios
from metav.cells import Cell, CellResult
from metav.cli import main
from metav.paper import learning, page, plots, running
from metav.zoo import Zoo

QUICK = ["--only", "warfarin", "--profile", "smoke", "--jobs", "1"]


def test_the_plan_has_all_of_the_papers_figures():
    parts = paper.plan("cpu")
    assert [part.name for part in parts[:3]] == ["skin", "warfarin", "fashion"]
    assert len({part.name for part in parts}) == len(parts) == 12
    by_name = {part.name: part for part in parts}
    assert {"metav", "ipguard", "deepfoolfp", "conferae", "modeldiff"} <= set(by_name["skin"].schemes)
    for name in paper.SCENARIOS:
        assert by_name[name].repeats == by_name[f"{name}-learning"].repeats == 5
        assert by_name[f"{name}-queries"].queries == tuple(range(10, 101, 10))
        assert [2 * count for count in by_name[f"{name}-models"].models] == [2, 4, 10, 20, 40, 70]
        assert by_name[f"{name}-learning"].learning
        assert {by_name[f"{name}-{kind}"].repeats for kind in ("queries", "models")} == {3}


def test_a_part_alone_is_run_and_builds_no_cohort(tmp_path, monkeypatch, capsys):
    names = [part.name for part in paper.plan("cpu", ["fashion-main", "skin", "warfarin-learning"])]
    assert names == ["skin", "fashion", "skin-queries", "skin-models", "skin-learning", "warfarin-learning"]
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    quick = ["--only", "warfarin-models", "--profile", "smoke", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert main(["bench", "paper", *quick]) == 0
    assert "Part 1 of 1, warfarin-models" in capsys.readouterr().out
    zoo = Zoo(scenarios.load("warfarin", "smoke"))
    assert set(zoo.folder.glob("*.safetensors")) == {zoo.files(lineage)[0] for lineage in zoo.lineages()}
    shown = (tmp_path / "out" / report.NAME).read_text()
    where = f"--profile smoke --out {tmp_path / 'out'}"
    assert f"Not run yet: `metav bench paper --only warfarin {where}`." in shown
    assert f"Not run yet: `metav bench paper --only skin {where}`." in shown


def test_the_whole_of_a_scenario_resumes_and_shows_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    assert main(["bench", "paper", *QUICK, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Part 1 of 4, warfarin (Fig. 2a, 3 and Table 5; Fig. 5a-b); left: 16 fingerprints of kinds that" in printed
    assert "Part 4 of 4, warfarin-learning (Fig. 4); left: about" in printed
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "cells").rglob("*.json")}
    shown = (out / report.NAME).read_text()
    assert main(["bench", "paper", *QUICK, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    assert (out / report.NAME).read_text() == shown
    (row,) = (row for row in json.loads((out / "warfarin" / "results.json").read_text()) if row["scheme"] == "cohort")
    mean, half = row["aruc"]["mean"], row["aruc"]["ci95"]
    assert f"| `cohort` | {mean:.3f} ± {half:.3f} |" in shown
    assert "`modeldiff` is not applicable: it needs answers of several values." in shown
    for link in ("warfarin/schemes.png", "warfarin/curves.png", "warfarin-queries/warfarin-queries.png"):
        assert f"]({link})" in shown
        assert (out / link).stat().st_size > 5000
    (tmp_path / "docs").mkdir()
    elsewhere = page.write(out, tmp_path / "docs" / "results.md")
    assert "](../out/warfarin/schemes.png)" in elsewhere.read_text()


def test_options_that_the_paper_fixes_are_refused(capsys):
    assert main(["bench", "paper", "--scheme", "metav"]) == 2
    assert "beside paper, got --scheme: leave it out" in capsys.readouterr().err.replace("\n", " ")
    assert main(["bench", "paper", "--only", "cars"]) == 2
    assert "got 'cars': choose one of them." in capsys.readouterr().err.replace("\n", " ")
    assert main(["bench", "paper", "--only"]) == 2
    assert "expected --only VALUE, got none: see metav bench --help." in capsys.readouterr().err.replace("\n", " ")
    assert main(["bench", "warfarin", "--only", "skin"]) == 2
    assert "expected --only beside paper alone" in capsys.readouterr().err.replace("\n", " ")


def test_a_learning_curve_ends_in_the_fingerprint_of_a_benchmark(smoke_zoo):
    cell = Cell(scheme="metav(iterations=20)", repetition=1, queries=6)
    rows = learning.curve(smoke_zoo, cell)
    assert [row["iterations"] for row in rows][::4] == [1, 5, 11]
    assert rows[-1]["iterations"] == 20
    scores = benchmark.run_cell(smoke_zoo, cell).scores
    sides = ([each.rate for each in scores if each.positive is positive] for positive in (True, False))
    assert rows[-1]["aruc"] == evaluation.aruc(*sides)
    assert 0 < rows[0]["seconds"] < rows[-1]["seconds"]


def test_when_a_curve_is_high_enough():
    rows = [
        {"scheme": "metav", "iterations": index, "seconds": float(index), "aruc": aruc}
        for index, arucs in enumerate([(0.9, 0.9), (0.1, 0.5), (0.9, 0.8), (0.95, 0.9)], 1)
        for aruc in arucs
    ]
    assert plots.stays_above(rows, "metav", 0.8) == (3, 3.0)  # at first it is above by chance
    assert plots.stays_above(rows, "metav", 0.2) == (1, 1.0)
    assert plots.stays_above(rows, "metav", 0.95) is None


def test_the_time_left_is_that_of_what_was_seen():
    forecast, cell = running.Forecast(), Cell(scheme="a", repetition=0, queries=100)
    assert forecast.left({"skin": [cell]}, 2) == "left: 1 fingerprints of kinds that were not timed so far"
    assert forecast.left({"skin": []}, 2) == "left: about 0 min"
    for repetition, seconds in enumerate((100.0, 200.0, 200.0)):
        again = replace(cell, repetition=min(repetition, 1))  # a cell that is told twice counts once
        forecast.note("skin", [CellResult(cell=again, scores=(), construct_seconds=seconds, verify_seconds=50.0)])
    fewer, other = replace(cell, queries=10), replace(cell, scheme="b")
    assert [forecast.seconds("skin", each) for each in (cell, fewer, other)] == [200.0, 20.0, None]
    assert forecast.seconds("warfarin", cell) is None
    assert forecast.left({"skin": [cell] * 30}, 2) == "left: about 50 min"
    both = "left: about 1 h 40 min and 1 fingerprints of kinds that were not timed so far"
    assert forecast.left({"skin": [cell] * 60, "warfarin": [cell]}, 2) == both


def test_a_run_that_goes_on_knows_how_long_fingerprints_take(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    part = paper.Part(
        name="warfarin", shows="", scenario="warfarin", schemes=("metav(iterations=2)",), repeats=2, queries=(4,)
    )
    cell = running.planned(part, smoke_zoo)[0]
    forecast = running.Forecast()
    forecast.recall(part, smoke_zoo)
    assert forecast.seconds("warfarin", cell) is None
    done = CellResult(cell=cell, scores=(), construct_seconds=60.0, verify_seconds=60.0)
    cells.save(cells.paths(smoke_zoo, [cell])[cell].result, done)
    forecast.recall(part, smoke_zoo)
    assert running.missing(part, smoke_zoo) == running.planned(part, smoke_zoo)[1:]
    assert forecast.left({"warfarin": running.missing(part, smoke_zoo)}, 1) == "left: about 2 min"


def test_a_curve_that_fails_does_not_stop_the_others(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    whole, asked = learning.curve, []

    def failing(zoo, cell):
        asked.append(cell.repetition)
        if cell.repetition == 0:
            raise ValueError("no luck")
        return whole(zoo, cell)

    monkeypatch.setattr(learning, "curve", failing)
    wanted = [Cell(scheme="metav(iterations=3)", repetition=index, queries=4) for index in range(2)]
    rows, failures = learning.curves(smoke_zoo, wanted, jobs=1)
    assert {row["repetition"] for row in rows} == {1}
    assert [failure.cell.repetition for failure in failures] == [0]
    assert "got ValueError (no luck): see its traceback in failures.txt." in failures[0].error
    assert learning.curves(smoke_zoo, wanted, jobs=1)[0] == rows
    assert asked == [0, 1, 0]


def test_again_forgets_what_was_kept_of_its_parts_alone(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    parts, zoos = (
        paper.plan("smoke", ["warfarin-main", "warfarin-queries", "warfarin-learning"]),
        {"warfarin": smoke_zoo},
    )
    for part in parts:
        for file in cells.paths(smoke_zoo, running.planned(part, smoke_zoo)).values():
            file.result.parent.mkdir(parents=True, exist_ok=True)
            for kept in (file.result, file.fingerprint, learning.curve_file(file.result)):
                kept.write_text("[]")
    counts = {part.name: len(running.missing(part, smoke_zoo)) for part in parts}
    assert set(counts.values()) == {0}
    running.forget(parts[-1:], zoos)
    after = {part.name: len(running.missing(part, smoke_zoo)) for part in parts}
    assert after[parts[-1].name] == len(running.planned(parts[-1], smoke_zoo))
    running.forget(parts, zoos)
    assert all(len(running.missing(part, smoke_zoo)) == len(running.planned(part, smoke_zoo)) for part in parts)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_failed_does_not_pass_for_what_an_earlier_run_found(smoke_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "run", lambda *_, **__: [])
    monkeypatch.setattr(learning, "curves", lambda *_, **__: ([], []))
    for part, file in zip(
        paper.plan("smoke", ["warfarin-main", "warfarin-learning"]), ("results.json", "curves.json"), strict=True
    ):
        (tmp_path / part.name).mkdir()
        (tmp_path / part.name / file).write_text("[]")
        running.run(part, smoke_zoo, tmp_path, "metav bench paper", jobs=1)
        assert not (tmp_path / part.name / file).exists()


def test_a_scheme_that_failed_with_the_largest_number_has_an_empty_place():
    def row(scheme, queries):
        figure = {"mean": 0.5, "ci95": 0.1}
        return {"scheme": scheme, "queries": queries, "negatives": 2, "positives": 2} | dict.fromkeys(
            ("aruc", "false_accusations", "missed"), figure
        )

    rows = [row("metav", 10), row("metav", 100), row("deepfoolfp", 10)]
    lines = list(page._swept(rows, "queries", [10, 100]))
    cells = "0.500 ± 0.100 | 0.5 ± 0.1 | 0.5 ± 0.1"
    assert lines[2:4] == [f"| 10 | {cells} | {cells} |", f"| 100 | {cells} |  |  |  |"]


def test_figures_of_a_zoo_that_was_built_again_say_so():
    for (scenario, commit), note in page.REBUILT.items():
        for where, said in ((scenario, [note, ""]), ("warfarin", [])):
            row = {"scenario": where, "environment": {"date": "2026-11-29", "commit": commit}}
            assert page.caveats(row) == said


def test_notes_on_earlier_figures_are_not_said_of_later_ones():
    for date, earlier in (("2026-11-27", True), ("2026-11-28", False)):
        row = {"scenario": "fashion", "title": "cohort", "environment": {"date": date}}
        assert any("These figures are of before" in note for note in page.caveats(row)) is earlier
        assert any("was added to the cohort" in note for note in page.notes([row], "fashion"))
