"""Benchmarks over several numbers of queries, or of models."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread

from metav import figures, results
from metav.cli import main
from metav.report import apart, slug


def bench(zoo, out, *options):
    where = ["--profile", "smoke", "--zoo", str(zoo.folder), "--out", str(out), "--jobs", "1", "--repeats", "2"]
    assert main(["bench", "warfarin", *where, "--scheme", "metav(iterations=2)", "akh", *options]) == 0
    return json.loads((out / "results.json").read_text()), (out / "report.md").read_text()


def test_a_row_for_each_number_of_queries_and_one_figure_of_all(smoke_zoo, tmp_path):
    rows, report = bench(smoke_zoo, tmp_path, "--queries", "3", "6", "9")
    assert [row["queries"] for row in rows] == [3, 6, 9, 3]
    assert [row["title"] for row in rows] == [*(f"metav(iterations=2), {n} queries" for n in (3, 6, 9)), "akh"]
    assert results.swept(rows) == ["queries"]
    assert [path.name for path in tmp_path.glob("*.svg")] == ["warfarin-queries.svg"]
    assert "](warfarin-queries.svg)" in report
    assert "2 repetitions, seeds 0, 1, 3 to 9 queries" in report
    assert imread(tmp_path / "warfarin-queries.png").std() > 0.05


def test_a_row_for_each_number_of_models(smoke_zoo, tmp_path):
    rows, report = bench(smoke_zoo, tmp_path, "--queries", "4", "--models", "1", "2")
    assert [row["models"] for row in rows] == [1, 2, None]
    assert [row["title"] for row in rows[:2]] == [
        "metav(iterations=2), 1 model a side",
        "metav(iterations=2), 2 models a side",
    ]
    assert "](warfarin-models.svg)" in report


def test_the_line_of_a_sweep_goes_through_the_means():
    rows = [
        {"scenario": "x", "scheme": "metav", "repeats": 2, "queries": n, "aruc": {"mean": n / 100, "ci95": None}}
        for n in (30, 10, 20)
    ]
    (ax,) = figures.sweep(rows, "queries").axes
    assert ax.lines[0].get_xydata().tolist() == [[n, pytest.approx(n / 100)] for n in (10, 20, 30)]


def test_what_is_left_out_has_a_line_of_its_own():
    rows = [
        {
            "scenario": "x",
            "scheme": "metav",
            "left_out": out,
            "repeats": 2,
            "queries": n,
            "aruc": {"mean": y, "ci95": None},
        }
        for out, y in (("WP", 0.9), ("FT", 0.4))
        for n in (10, 20)
    ]
    (ax,) = figures.sweep(rows, "queries").axes
    assert [text.get_text() for text in ax.texts] == ["metav\nWP", "metav\nFT"]
    assert ax.lines[0].get_xydata().tolist() == [[10, 0.9], [20, 0.9]]


def test_figures_whose_names_are_alike_have_files_of_their_own():
    names = [slug(f"warfarin-metav, without {name}") for name in ("A", "B", "a")]
    assert names == ["warfarin-metav-without-a", "warfarin-metav-without-b", "warfarin-metav-without-a"]
    assert apart(names) == ["warfarin-metav-without-a-0", "warfarin-metav-without-b", "warfarin-metav-without-a-1"]


def test_the_whole_half_has_no_place_in_a_sweep_of_models():
    rows = [
        {"scenario": "x", "scheme": "metav", "repeats": 2, "models": n, "aruc": {"mean": 0.5, "ci95": None}}
        for n in (None, 5)
    ]
    (ax,) = figures.sweep(rows, "models").axes
    assert ax.lines[0].get_xydata().tolist() == [[5, 0.5]]
