"""The open world: kinds that neither zoo nor cohort holds, met in tests alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from metav import benchmark, cells, protocols, scenarios, schemes
from metav.cli import main
from metav.errors import UsageError
from metav.scenarios.fashion_open import STRANGE as FASHION
from metav.scenarios.skin_strange import STRANGE as SKIN
from metav.scenarios.warfarin_nets import STRANGE as WARFARIN
from metav.verification import verify
from metav.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(smoke_zoo) -> Zoo:
    """The smoke zoo and its open world, in the same folder."""
    found = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True, open_world=True)
    found.build(jobs=2)
    return found


# -- composition ---------------------------------------------------------------------------------------------------

FITTED = {"warfarin": (30, 8), "skin": (14, 8), "fashion": (24, 4)}  # outsiders: independent, derived


@pytest.mark.parametrize("name", FITTED)
def test_enough_independents_and_thefts_are_met(name):
    scenario = scenarios.load(name, "cpu")
    sides = Counter(suspect.positive for suspect in scenario.open_world)
    independent, derived = FITTED[name]
    assert sides[False] + independent >= 40
    assert sides[True] + derived >= 20
    assert len({suspect.lineage for suspect in scenario.open_world}) == len(scenario.open_world)


@pytest.mark.parametrize(("name", "strange"), [("warfarin", WARFARIN), ("skin", SKIN), ("fashion", FASHION)])
def test_suspects_are_of_kinds_that_neither_zoo_nor_cohort_holds(name, strange):
    scenario = scenarios.load(name, "cpu")
    known = [*(suspect.lineage for suspect in scenario.suspects), *scenario.cohort.all()]
    known = {scenario.lineage(text).text for text in known}
    assert not known & {scenario.lineage(suspect.lineage).text for suspect in scenario.open_world}
    steps = [scenario.lineage(text).step for text in known]
    held = {getattr(step, "architecture", None) or getattr(step, "student", None) for step in steps}
    assert not held & set(strange)
    for suspect in scenario.open_world:
        assert suspect.positive == scenario.lineage(suspect.lineage).text.startswith("target>")


@pytest.mark.parametrize("name", FITTED)
def test_a_cohort_is_made_as_the_target_was_from_seeds_that_nothing_else_has(name):
    scenario = scenarios.load(name, "cpu")
    plan = scenario.cohort
    target = scenario.lineage("target").step
    plain = [scenario.lineage(text) for text in plan.lineages("as it is")]
    assert [each.text for each in plain[plan.teachers :]] == ["target"] * plan.copies
    for each in plain[: plan.teachers]:
        assert replace(each.step, seed=0) == replace(target, seed=0)
    seeds = {scenario.lineage(suspect.lineage).training for suspect in (*scenario.suspects, *scenario.open_world)}
    assert not {each.step.seed for each in plain[: plan.teachers]} & {each.seed for each in seeds if each is not None}
    for kind in plan.kinds:
        assert len(set(plan.lineages(kind))) >= plan.teachers + 1


# -- Warfarin at smoke size ----------------------------------------------------------------------------------------


def test_outsiders_are_fitted_on_what_their_names_say(zoo):
    met = {each.name: each for each in benchmark.open_world(zoo)}
    public, test = (zoo.scenario.parts[name] for name in ("public", "test"))
    assert met["median"].model(test.x).unique().item() == public.y.median()
    boosted = met["gradient boosting of answers"].model
    target = zoo.load("target")
    far = (public.y - target(public.x)).abs().mean()
    assert (boosted(public.x) - target(public.x)).abs().mean() < 0.2 * far
    half = met["0.5 target, rest independent"].model
    other = 2 * half(test.x) - target(test.x)
    assert (other - test.y).abs().mean() < (target(test.x) - test.y).abs().mean()  # smoke's target is a poor one
    assert all(each.quality.keys() == zoo.record("target").quality.keys() for each in met.values())


def test_none_of_it_reaches_a_construction(zoo):
    cell = cells.Cell(scheme="metav(iterations=2)", repetition=0, queries=4, protocol="open-world")
    construction, _ = protocols.split(zoo.scenario.suspects, 0)
    made = benchmark.construct(zoo, cell.scheme, construction, queries=4, seed=0)
    unseen = {zoo.scenario.lineage(suspect.lineage).text for suspect in zoo.open_world}
    assert not unseen & set(made.provenance["suspects"])
    result = benchmark.run_cell(zoo, cell)
    assert [score.lineage for score in result.scores] == [each.name for each in benchmark.open_world(zoo)]
    again = benchmark.run_cell(zoo, cells.Cell(scheme=cell.scheme, repetition=0, queries=4))
    assert not unseen & {score.lineage for score in again.scores}


def test_bench_counts_false_accusations_and_misses(zoo, tmp_path):
    where = ["--profile", "smoke", "--zoo", str(zoo.folder), "--out", str(tmp_path)]
    options = ["--protocol", "open-world", "--repeats", "2", "--queries", "8", "--jobs", "1"]
    assert main(["bench", "warfarin", *where, *options, "--scheme", "metav(iterations=5)", "cohort"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    scores = pd.read_csv(tmp_path / "scores.csv")
    for row in rows:
        mine = scores[scores.scheme == row["scheme"]]
        assert row["protocol"] == "open-world"
        assert row["positives"] + row["negatives"] == len(mine) / 2
        for repetition, (accused, missed) in enumerate(
            zip(row["false_accusations"]["values"], row["missed"]["values"], strict=True)
        ):
            part = mine[mine.repetition == repetition]
            assert accused == ((part.rate > part.threshold) & ~part.positive).sum()
            assert missed == ((part.rate <= part.threshold) & part.positive).sum()
        assert set(row["by_lineage"]) == set(mine.family)
    assert "protocol open-world" in (tmp_path / "report.md").read_text()


def test_a_scenario_without_an_open_world_says_so(smoke_zoo, monkeypatch):
    bare = Zoo(replace(smoke_zoo.scenario, open_world=(), outsiders=None), smoke_zoo.folder)
    with pytest.raises(UsageError, match="expected a scenario with an open world, got warfarin"):
        protocols.check(bare.scenario, "open-world")
    with pytest.raises(UsageError, match="did you mean 'open-world'"):
        protocols.check(bare.scenario, "open-word")


# -- Skin and Fashion at smoke size --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["skin", "fashion"])
def test_images_have_a_cohort_and_an_open_world_too(name, tmp_path):
    """Few of each, barely trained: that all of them can be made, asked and judged."""
    scenario = scenarios.load(name, "smoke")
    few = replace(
        scenario,
        suspects=tuple(s for s in scenario.suspects if s.family in ("WP", "FTLL", "Independent M", "Independent S")),
        open_world=tuple(s for s in scenario.open_world if "ftal" not in s.lineage and "M(" not in s.lineage),
    )
    zoo = Zoo(few, tmp_path / "zoo", cohort=True, open_world=True)
    zoo.build(jobs=2)
    known = benchmark.ensemble(zoo, few.suspects, cohort=True)
    assert known.cohort.teachers == scenario.cohort.teachers
    made = schemes.get("cohort(pool=20)").construct(known, queries=6, seed=0)
    met = benchmark.open_world(zoo)
    families = {(each.family, each.positive) for each in met}
    assert families >= {(s.family, s.positive) for s in few.open_world}
    assert len(families) > len({s.family for s in few.open_world})
    for each in met:
        assert 0 <= verify(made, each.model).rate <= 1
        assert each.quality.keys() == zoo.record("target").quality.keys()
