"""What each protocol keeps from construction, and what it tests."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from metav import benchmark, kept_cohort, protocols, scenarios, sources, stacks
from metav.cells import Cell
from metav.cli import main
from metav.errors import UsageError
from metav.scenarios.base import Merit
from metav.schemes.cohort import Cohort
from metav.suspects import parse
from metav.suspects.changed_answers import Top
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
    assert protocols.what_is_left_out(scenario, "unseen-obfuscation", ["WP", "FT"]) == ["WP", "FT"]
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


def test_too_few_are_refused_before_anything_is_trained(smoke_zoo, capsys):
    scenario = smoke_zoo.scenario
    few = [
        each for each in scenario.suspects if not each.positive or scenario.lineage(each.lineage).obfuscation == "WP"
    ]
    bare = replace(scenario, suspects=tuple(few))
    with pytest.raises(
        UsageError, match=r"^expected at least two positive suspects to construct from without WP, got 0"
    ):
        protocols.check_enough(bare, "unseen-obfuscation", [0], 1)
    command = ["bench", "warfarin", "--profile", "smoke", "--zoo", "/nowhere", "--protocol", "unseen-architecture"]
    assert main([*command, "--models", "1000"]) == 2
    assert "models a side to construct from, got 1000" in capsys.readouterr().err.replace("\n", " ")


LINEAGES = [
    # lineage, architecture, made anew, obfuscation
    ("target", "S", "", ""),
    ("target>wp(0.3)>ftal(public,1ep,lr=0.1,batch=8,seed=1)", "S", "", "WP"),
    ("target>rtll(public,1ep,lr=0.1,batch=8,seed=1)>wp(0.3)", "S", "", "RT"),
    ("target>distill(public,1ep,lr=0.1,batch=8,seed=1,student=L)>wp(0.3)", "L", "L", "Distillation"),
    ("target>rounded(5)", "S", "", "rounded"),
    ("M(own,1ep,lr=0.1,batch=8,seed=1)", "M", "M", ""),
    ("M(own,1ep,lr=0.1,batch=8,seed=1)>distill(public,1ep,lr=0.1,batch=8,seed=1,student=L)", "L", "L", ""),
]


@pytest.mark.parametrize("target", ["S(own,1ep,lr=0.1,batch=8,seed=1)", "S(own,1ep,lr=0.1,batch=8,seed=1)>wp(0.1)"])
@pytest.mark.parametrize(("text", "architecture", "anew", "obfuscation"), LINEAGES)
def test_a_lineage_says_what_it_is_of(target, text, architecture, anew, obfuscation):
    found = parse(text, target)
    assert (found.architecture, found.new_architecture, found.obfuscation) == (architecture, anew, obfuscation)


@pytest.mark.parametrize("name", ["paper", "api", "open-world"])
def test_other_protocols_leave_nothing_out(loaded, name):
    scenario = loaded["skin"]
    assert protocols.what_is_left_out(scenario, name) == [""]
    assert protocols.divide(scenario, name, "", 2) == protocols.split(scenario.suspects, 2)


def test_a_cohort_is_not_shown_what_is_left_out(smoke_zoo):
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True)
    zoo.build(jobs=1)
    left_out = {name for name, links in zoo.cohort.kinds.items() if links.startswith("distill")}
    assert left_out
    known = protocols.divide(zoo.scenario, "unseen-obfuscation", "Distillation", 0)[0]
    ensemble = benchmark.ensemble(
        zoo,
        known,
        cohort=True,
        left_out=lambda each: protocols.is_left_out(zoo.scenario, "unseen-obfuscation", "Distillation", each),
    )
    assert set(ensemble.cohort.kinds) == set(zoo.cohort.kinds) - left_out


@pytest.mark.parametrize(
    ("protocol", "left_out"),
    [("unseen-obfuscation", "Distillation"), ("unseen-obfuscation", "WP"), ("unseen-architecture", "S")],
)
def test_a_cell_shows_its_scheme_no_cohort_of_what_it_leaves_out(smoke_zoo, monkeypatch, protocol, left_out):
    zoo, seen = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True), []
    zoo.build(jobs=1)

    def construct(_, ensemble, **__):
        seen.append(ensemble.cohort)
        raise UsageError("that is enough")

    monkeypatch.setattr(Cohort, "construct", construct)
    cell = Cell(scheme="cohort", repetition=0, queries=4, protocol=protocol, left_out=left_out)
    with pytest.raises(UsageError, match="that is enough"):
        benchmark.run_cell(zoo, cell)
    plan, whole = zoo.cohort, kept_cohort.read(zoo, zoo.cohort)
    hidden = partial(protocols.is_left_out, zoo.scenario, protocol, left_out)
    kinds = [kind for kind in plan.kinds if not hidden(plan.lineages(kind)[-1])]
    others = [model for name, model in zip(plan.others, whole.others, strict=True) if not hidden(name)]
    assert list(seen[0].kinds) == kinds
    assert [str(model.state_dict()) for model in seen[0].others] == [str(model.state_dict()) for model in others]
    assert (len(kinds), len(others)) != (len(plan.kinds), len(plan.others))


def test_what_a_cohort_answered_is_named_by_all_that_it_depends_on(smoke_zoo, monkeypatch):
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True)
    zoo.build(jobs=1)
    kind = next(iter(zoo.cohort.kinds))

    def names():
        return {name for name, _ in kept_cohort.read(zoo, zoo.cohort).parts[kind]}

    seen = [names()]
    for module, name in ((sources, "CODE"), (torch, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "9.9.9")
            seen.append(names())
    record = zoo.record
    monkeypatch.setattr(zoo, "load", Zoo(zoo.scenario, zoo.folder, cohort=True).load)
    monkeypatch.setattr(zoo, "record", lambda text: replace(record(text), digest="0" * 64))
    seen.append(names())
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert benchmark._cohort(zoo, zoo.cohort) is not benchmark._cohort(smoke_zoo, zoo.cohort)  # of another target


def test_a_process_reads_a_cohort_once(smoke_zoo, monkeypatch):
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True)
    zoo.build(jobs=1)
    known = zoo.scenario.suspects
    first = benchmark.ensemble(zoo, known, cohort=True).cohort
    read, load = [], Zoo.load
    monkeypatch.setattr(Zoo, "load", lambda self, lineage: (read.append(lineage), load(self, lineage))[1])
    again = benchmark.ensemble(Zoo(zoo.scenario, zoo.folder, cohort=True), known, cohort=True).cohort
    assert set(read) == {"target", *(suspect.lineage for suspect in known)}
    assert again.kinds == first.kinds
    fewer = replace(zoo.scenario, cohort=replace(zoo.cohort, kinds={"as it is": ""}))
    assert list(benchmark.ensemble(Zoo(fewer, zoo.folder, cohort=True), known, cohort=True).cohort.kinds) == [
        "as it is"
    ]


def test_what_a_cohort_answered_to_candidates_is_kept(smoke_zoo, tmp_path, monkeypatch):
    asked, answered = [], stacks._side_by_side
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    monkeypatch.setattr(kept_cohort, "MANY", 30)
    monkeypatch.setattr(stacks, "_side_by_side", lambda *given: (asked.append(len(given[2])), answered(*given))[1])
    monkeypatch.setattr(benchmark, "_cohorts", {})
    zoo = Zoo(smoke_zoo.scenario, smoke_zoo.folder, cohort=True)
    zoo.build(jobs=1)

    def made(scheme):
        asked.clear()
        found = benchmark.construct(zoo, scheme, zoo.scenario.suspects, queries=6, seed=0)
        return found, [count for count in asked if count >= 30]

    first, many = made("cohort(real=20,pool=20)")
    assert many.count(40) == 2 * len(zoo.cohort.kinds)  # thefts from teachers, and from the target
    again, many = made("cohort(real=20,pool=20)")
    assert (again.digest, many) == (first.digest, [])
    kept = sorted(tmp_path.rglob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:-1])  # as a full disk leaves it
    again, many = made("cohort(real=20,pool=20)")
    assert (again.digest, len(many)) == (first.digest, 1)
    assert made("cohort(real=20,pool=20,half=1)")[1]  # other answers


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
        useful = mine.useful.groupby(mine.repetition).sum()
        assert row["useful"]["positives"]["values"] == useful.tolist()
        assert row["spoilt"]["positives"]["values"] == (~mine.useful).groupby(mine.repetition).sum().tolist()
        assert (row["useful"]["auc"] is None) == (not any(useful))
        lost = mine[~mine.useful]
        recognised = (lost.rate > lost.threshold).groupby(lost.repetition).mean()
        found = row["spoilt"]["recognised"]
        assert (found["values"] if found else []) == pytest.approx(recognised.tolist())
    assert any(row["useful"]["auc"] for row in rows)
    assert any(0 in row["spoilt"]["positives"]["values"] for row in rows)
    assert "metav(iterations=5) without WP" in (tmp_path / "report.md").read_text()


def test_what_a_scheme_lacks_has_no_figures_whatever_is_left_out(smoke_zoo, tmp_path):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--jobs", "1"]
    options = ["--protocol", "unseen-architecture", "--repeats", "3", "--queries", "4"]
    assert main(["bench", "warfarin", *where, *options, "--scheme", "metav(iterations=2)", "akh"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["scheme"], row["left_out"]) for row in rows] == [
        *(("metav(iterations=2)", name) for name in ARCHITECTURES["warfarin"]),
        ("akh", None),
    ]
    scores = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False)
    for row in rows[:-1]:
        mine = scores[(scores.left_out == row["left_out"]) & scores.positive]
        assert row["positives"] == pytest.approx(len(mine) / 3)


def test_bench_shows_what_an_api_lets_out(smoke_zoo, tmp_path):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path), "--jobs", "1"]
    options = ["--protocol", "api", "--repeats", "2", "--queries", "4", "--scheme", "metav(iterations=2)"]
    assert main(["bench", "warfarin", *where, *options]) == 0
    report = (tmp_path / "report.md").read_text()
    assert all(
        report.count(f"\n| `{title}` | ") == 2 for title in ("metav(iterations=2)", "metav(iterations=2), whole mg")
    )
    assert len(list(tmp_path.glob("*.svg"))) == 2


def test_an_api_that_lets_less_out_is_asked_the_same_fingerprint(smoke_zoo):
    cell = Cell(scheme="metav(iterations=5)", repetition=0, queries=6, protocol="api")
    found = pd.DataFrame([vars(score) for score in benchmark.run_cell(smoke_zoo, cell).scores])
    assert list(found.view.unique()) == ["", "whole mg"]
    plain = benchmark.run_cell(smoke_zoo, Cell(scheme=cell.scheme, repetition=0, queries=6)).scores
    assert found[found.view == ""].rate.tolist() == [score.rate for score in plain]
    assert found[found.view == "whole mg"].rate.tolist() != [score.rate for score in plain]


@pytest.mark.parametrize(
    ("name", "views"), [("skin", {"2 digits", "top 3", "label"}), ("warfarin", {"whole mg"}), ("fashion", {"8 bits"})]
)
def test_each_scenario_says_what_an_api_may_let_out(loaded, name, views):
    assert set(loaded[name].views) == views


def test_what_a_classifier_may_let_out():
    answers = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert Top(k=3).changed(answers).tolist() == [pytest.approx([0, 0.5, 0.15, 0.25])]
    assert Top(k=1, values=0).changed(answers).tolist() == [[0, 1, 0, 0]]
    assert Top(k=9).changed(answers).tolist() == [pytest.approx(answers[0].tolist())]
    for text, step in (("top(3)", Top(k=3)), ("top(1,values=0)", Top(k=1, values=0))):
        assert parse(f"target>{text}", "S(own,1ep,lr=0.1,batch=8,seed=1)").step == step
    for wrong in ({"k": 0}, {"k": 1, "values": 2}):
        with pytest.raises(UsageError, match=r"^expected k of at least 1 and values 0 or 1, got "):
            Top(**wrong)


@pytest.mark.parametrize(
    ("more", "value", "kept"), [(True, 0.91, True), (True, 0.89, False), (False, 1.09, True), (False, 1.11, False)]
)
def test_a_theft_is_of_use_if_it_lost_a_tenth_at_most(more, value, kept):
    assert Merit(name="x", more=more).is_useful({"x": value}, {"x": 1.0}) is kept
    worse = -1 - abs(1 - value) if more else -1 + abs(1 - value)  # of a figure below 0, as a log-likelihood is
    assert Merit(name="x", more=more).is_useful({"x": worse}, {"x": -1.0}) is kept
