"""What each protocol keeps from construction, and what it tests."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest
import torch

from metav import benchmark, protocols, scenarios
from metav.cells import Cell
from metav.cli import main
from metav.scenarios.base import Merit
from metav.suspects.facade import Top
from metav.zoo import Zoo

NAMES = ("warfarin", "skin", "fashion")
OBFUSCATIONS = {
    "warfarin": ["FT", "RT", "WP", "Distillation"],
    "skin": ["FT", "RT", "WP", "FP", "Distillation"],
    "fashion": ["FT", "RT", "WP", "FP", "Distillation"],
}
ARCHITECTURES = {"warfarin": ["S", "M", "L"], "skin": ["S", "M", "L", "XL", "XXL"], "fashion": ["S", "M", "L", "XL"]}


@pytest.fixture(scope="module")
def loaded():
    return {name: scenarios.load(name, "cpu") for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_each_obfuscation_is_left_out_in_turn(loaded, name):
    scenario = loaded[name]
    assert protocols.what_is_left_out(scenario, "unseen-obfuscation") == OBFUSCATIONS[name]
    tested = Counter()
    for left_out in OBFUSCATIONS[name]:
        construction, test = protocols.divide(scenario, "unseen-obfuscation", left_out, 0)
        positives = [each for each in test if each.positive]
        assert not set(construction) & set(test)
        assert {each.family.split()[0][: len(left_out)] for each in positives} == {left_out}
        assert not [each for each in construction if each.family.startswith(left_out)]
        assert len(test) - len(positives) == 35
        tested.update(positives)
    assert tested == Counter(each for each in scenario.suspects if each.positive)


@pytest.mark.parametrize("name", NAMES)
def test_each_architecture_is_left_out_of_independents_and_students(loaded, name):
    scenario = loaded[name]
    assert protocols.what_is_left_out(scenario, "unseen-architecture") == ARCHITECTURES[name]
    for left_out in ARCHITECTURES[name]:
        construction, test = protocols.divide(scenario, "unseen-architecture", left_out, 1)
        assert not set(construction) & set(test)
        assert not [each for each in construction if f"student={left_out}" in each.lineage]
        assert not [each for each in construction if each.lineage.startswith(f"{left_out}(")]
        assert all(each.lineage.startswith(f"{left_out}(") for each in test if not each.positive)
        assert [each for each in construction if each.family == "WP"]  # the target's own architecture stays
        students = {each for each in scenario.suspects if f"student={left_out}" in each.lineage}
        assert students <= set(test)


@pytest.mark.parametrize("name", ["paper", "api", "open-world"])
def test_other_protocols_leave_nothing_out(loaded, name):
    scenario = loaded["skin"]
    assert protocols.what_is_left_out(scenario, name) == [""]
    assert protocols.divide(scenario, name, "", 2) == protocols.split(scenario.suspects, 2)


def test_a_cohort_is_not_shown_what_is_left_out(smoke_zoo):
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True)
    zoo.build(jobs=1)
    left_out = {each for each in zoo.cohort.kinds if "extract" in zoo.cohort.kinds[each]}
    assert left_out
    known = protocols.divide(zoo.scenario, "unseen-obfuscation", "Distillation", 0)[0]
    ensemble = benchmark.ensemble(
        zoo,
        known,
        cohort=True,
        left_out=lambda each: protocols.is_left_out(zoo.scenario, "unseen-obfuscation", "Distillation", each),
    )
    assert set(ensemble.cohort.kinds) == set(zoo.cohort.kinds) - left_out


def test_bench_has_a_row_for_each_that_is_left_out(smoke_zoo, tmp_path):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path)]
    options = ["--protocol", "unseen-obfuscation", "--repeats", "2", "--queries", "6", "--jobs", "1"]
    assert main(["bench", "warfarin", *where, *options, "--scheme", "metav(iterations=5)"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["left_out"] for row in rows] == OBFUSCATIONS["warfarin"]
    scores = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False)
    for row in rows:
        mine = scores[(scores.left_out == row["left_out"]) & scores.positive]
        assert {family.split()[0][: len(row["left_out"])] for family in mine.family} == {row["left_out"]}
        assert row["positives"] * row["repeats"] == len(mine)
        kept = mine[mine.useful]
        counted = sum(row["useful"]["positives"]["values"]) if row["useful"] else None
        assert counted == len(kept) or (counted is None and kept.repetition.nunique() < 2)
    assert "metav(iterations=5) without WP" in (tmp_path / "report.md").read_text()


def test_an_api_that_lets_less_out_is_asked_the_same_fingerprint(smoke_zoo):
    cell = Cell(scheme="metav(iterations=5)", repetition=0, queries=6, protocol="api")
    found = pd.DataFrame([vars(score) for score in benchmark.run_cell(smoke_zoo, cell).scores])
    assert list(found.view.unique()) == ["", "whole mg"]
    plain = benchmark.run_cell(smoke_zoo, Cell(scheme=cell.scheme, repetition=0, queries=6)).scores
    assert found[found.view == ""].rate.tolist() == [score.rate for score in plain]
    assert found[found.view == "whole mg"].rate.tolist() != [score.rate for score in plain]


def test_what_a_classifier_may_let_out():
    answers = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert Top(k=3).changed(answers).tolist() == [pytest.approx([0, 0.5, 0.15, 0.25])]
    assert Top(k=1, values=0).changed(answers).tolist() == [[0, 1, 0, 0]]
    assert Top(k=9).changed(answers).tolist() == [pytest.approx(answers[0].tolist())]


@pytest.mark.parametrize(
    ("more", "value", "kept"), [(True, 0.91, True), (True, 0.89, False), (False, 1.09, True), (False, 1.11, False)]
)
def test_a_theft_is_of_use_if_it_lost_a_tenth_at_most(more, value, kept):
    assert Merit(name="x", more=more).kept({"x": value}, {"x": 1.0}) is kept
