"""What the README and the guides show must run."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor

import tiny
from metav import paper, schemes, training
from metav.errors import UsageError
from metav.paper import page, plots
from metav.results import METRICS, summary, with_interval
from metav.stacks import ACTIVATIONS
from metav.zoo import Zoo
from own_task import task

ROOT = Path(__file__).parent.parent


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    get_reusable_executor().shutdown()  # its processes stay in this folder, where later tests would find no data
    assert 0 <= names["auc"] <= 1
    assert (tmp_path / "example.safetensors").exists()


def test_the_example_scheme_conforms_and_takes_options_once_it_is_listed(tmp_path, monkeypatch):
    scheme, check = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-scheme.md").read_text(), re.DOTALL)
    (tmp_path / "real_examples.py").write_text(scheme)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("real_examples").RealExamples
    for ensemble in (tiny.classifiers(), tiny.tables()):
        exec(compile(check, "adding-a-scheme.md", "exec"), {"RealExamples": kind, "ensemble": ensemble})
    monkeypatch.setitem(schemes.SCHEMES, "real", kind)
    assert schemes.get("real(first=0.5)") == kind(first=0.5)
    with pytest.raises(UsageError, match=r"^expected models with class labels for real, got "):
        schemes.require("real", tiny.REGRESSION)


def test_the_example_of_a_training_of_one_s_own_changes_how_it_goes(tmp_path, monkeypatch):
    _, example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own-model.md").read_text(), re.DOTALL)[:2]
    names: dict[str, object] = {}
    exec(compile(example, "own-model.md", "exec"), names)
    zoo = Zoo(replace(task().scenario("smoke"), fit=names["fit"]), tmp_path)
    met = []
    monkeypatch.setattr(training, "fit", lambda drafts, *_: met.extend(draft.training for draft in drafts))
    zoo.build(jobs=1)
    assert {(each.optimiser, each.decay) for each in met} == {("sgd", 5e-4)}
    assert {round(each.lr, 9) for each in met} == {0.02, 0.006}  # from scratch, and of tuning


def prose(page: str) -> str:
    """A page with each paragraph on one line, as where its lines end says nothing; tables as they are."""
    return re.sub(r"(?<![\n|])\n *(?![\n|])", " ", (ROOT / page).read_text())


def rows_of(folder):
    rows = json.loads((ROOT / "results" / folder / "results.json").read_text())
    return {row["title"]: row for row in rows if row["aruc"]}


@pytest.mark.parametrize("name", ["warfarin", "skin", "fashion"])
def test_what_is_reached_is_what_the_committed_results_say(name):
    readme, rows = prose("README.md"), rows_of(f"paper/{name}")
    shown = re.findall(
        rf"^\| \[{name.capitalize()}\].* \| `(.*?)` \| (.*?) \| .*? ?\| (.*) \|.*\|$", readme, re.MULTILINE
    )
    assert {"warfarin": 3, "fashion": 4, "skin": 4}[name] == len(shown)
    for title, first, rest in shown:
        assert [first, *rest.split(" | ")] == [with_interval(rows[title][key]) for key in METRICS], title
    assert next(iter(rows.values()))["command"] in readme


@pytest.mark.parametrize("scenario", ["warfarin", "skin", "fashion"])
def test_what_a_verdict_is_worth_is_what_the_committed_results_say(scenario):
    readme = prose("README.md")
    known, unknown = rows_of(f"paper/{scenario}"), rows_of(f"{scenario}-open-world")
    shown = re.findall(rf"^\| {scenario.capitalize()} \| `(.*)` \| (.*) \|$", readme, re.MULTILINE)
    assert len(shown) == 2
    for title, cells in shown:
        rows = known[title], unknown[title]
        wanted = [f"{row['false_accusations']['mean']:.1f} of {row['negatives']:g}" for row in rows]
        wanted += [f"{row['missed']['mean']:.1f} of {row['positives']:g}" for row in rows]
        assert cells.split(" | ") == wanted, title


def test_what_is_advised_is_what_the_committed_results_say():
    readme = prose("README.md")

    def accused(folder, scheme, **wanted):
        rows = json.loads((ROOT / "results" / folder / "results.json").read_text())
        (row,) = (row for row in rows if row["scheme"] == scheme and wanted.items() <= row.items())
        return f"{row['false_accusations']['mean']:.1f}", f"{row['missed']['mean']:.1f}"

    noise, data = (accused("paper/skin", name) for name in ("metav", paper.VARIANT["skin"]))
    assert f"noise, accused {noise[0]} of 35 and missed {noise[1]}; with queries that start from public" in readme
    assert f"public images it was {' and '.join(data)} (" in readme
    few, all_ = (accused("paper/warfarin-queries", "metav", queries=n)[0] for n in (10, 100))
    assert f"accuses {few} of 35 with 10 queries and {all_} with 100" in readme
    few, all_ = (accused("warfarin-few", "metav", models=n)[0] for n in (10, 35))
    assert f"{few} with 10 models of each side and {all_} with 35" in readme


def test_what_schemes_reach_on_skin_is_what_the_committed_results_say():
    page = prose("docs/skin.md").replace("*", "")
    rows = json.loads((ROOT / "results" / "paper" / "skin" / "results.json").read_text())
    for row in rows:
        cells = [with_interval(row[key]) for key in METRICS] + [
            with_interval(row[key], 1) for key in ("false_accusations", "missed")
        ]
        assert f"| `{row['title']}` | {' | '.join(cells)} |" in page
    assert rows[0]["command"] in page
    earlier = json.loads((ROOT / "results" / "skin" / "results.json").read_text())
    assert all(" | ".join(with_interval(row[key]) for row in earlier) in page for key in METRICS)


def test_skins_second_target_is_what_the_committed_results_say():
    text, skin = prose("docs/cohort.md"), prose("docs/skin.md")
    for target, folder in enumerate(("paper/skin", "skin-rebuilt")):
        rows = rows_of(folder)
        for title in (paper.VARIANT["skin"], "cohort"):
            row = rows[title]
            cells = [with_interval(row[key]) for key in ("aruc", "auc", "robustness_at_full_uniqueness")]
            cells += [f"{with_interval(row[key], 1)} of 35" for key in ("false_accusations", "missed")]
            assert f"| {target} | `{title}` | {' | '.join(cells)} |" in text
    for row in rows.values():
        assert f"{with_interval(row['aruc'])}" in skin
        assert row["false_accusations"]["mean"] == 0
        assert row["command"] in text
        assert row["command"] in skin
    scores = pd.read_csv(ROOT / "results" / "skin-rebuilt" / "scores.csv")
    missed = scores[scores.positive & ~scores.derived]
    ours, metavs = (missed[(missed.scheme == "cohort") == side] for side in (True, False))
    useless = ours.accuracy < 0.67
    assert f"misses {len(ours)} of 175: {useless.sum()} of models that are no better" in text
    assert f"alone, and {(~useless).sum()} of models whose pruned filters were tuned for an epoch" in text
    assert ours[~useless].lineage.str.contains(r">fp\(.*>ftal\(").all()
    assert (len(metavs), set(metavs.family)) == (4, {"Distillation S"})


def test_how_skin_is_learnt_is_what_the_committed_curves_say():
    text = prose("docs/skin.md")
    found = json.loads((ROOT / "results" / "paper" / "skin-learning" / "curves.json").read_text())["curves"]
    table = pd.DataFrame(found)
    ends = [table[table.scheme == scheme].groupby("repetition").last() for scheme in ("metav", paper.VARIANT["skin"])]
    literal, ours = (with_interval(summary(each.aruc.tolist())) for each in ends)
    assert plots.stays_above(found, "metav", 0.8) is None
    iterations, seconds = plots.stays_above(found, paper.VARIANT["skin"], 0.8)
    assert f"above 0.8 after {iterations} of 300 iterations ({seconds:.0f} s), and ends at {ours}." in text
    took = f"{ends[0].seconds.mean():.0f} s"
    assert f"is never above 0.8, and is {literal} after its 1,000 iterations ({took}; five" in text


def test_the_open_world_table_is_that_of_the_committed_results():
    text = prose("docs/cohort.md").replace("*", "")
    rows = json.loads((ROOT / "results" / "warfarin-open-world" / "results.json").read_text())
    assert " | ".join(with_interval(row["auc"]) for row in rows) in text
    for key in ("false_accusations", "missed"):
        assert " | ".join(with_interval(row[key], 1) for row in rows) in text, key
    for row in rows:
        assert f"{row['negatives']} independent" in text
        assert f"{row['positives']} thefts" in text
    assert rows[0]["command"] in text


def test_what_fewer_queries_bring_on_skin_is_what_the_committed_results_say():
    text = prose("docs/skin.md")
    rows = json.loads((ROOT / "results" / "paper" / "skin-queries" / "results.json").read_text())
    found = {
        name: {row["queries"]: row["aruc"] for row in rows if row["scheme"] == name}
        for name in (paper.VARIANT["skin"], "ipguard", "deepfoolfp", "modeldiff")
    }
    few, many = (with_interval(found[paper.VARIANT["skin"]][count]) for count in (10, 100))
    assert f"its ARUC is {few} instead of {many}" in text
    steady = [each["mean"] for name in ("ipguard", "modeldiff") for each in found[name].values()]
    assert f"stay between {min(steady):.2f} and {max(steady):.2f} with" in text
    falling = found["deepfoolfp"]
    assert "falls from {:.3f} to {:.3f}".format(*(falling[count]["mean"] for count in (10, 100))) in text
    assert rows[0]["command"] in text


@pytest.mark.parametrize("scenario", ["skin", "fashion"])
def test_what_schemes_meet_in_the_open_world_of_images_is_what_the_committed_results_say(scenario):
    text = prose("docs/cohort.md").replace("*", "")
    rows = json.loads((ROOT / "results" / f"{scenario}-open-world" / "results.json").read_text())
    assert " | ".join(f"`{row['title']}`" for row in rows) in text
    for key, digits in {"auc": 3, "robustness_at_full_uniqueness": 3, "false_accusations": 1, "missed": 1}.items():
        assert " | ".join(with_interval(row[key], digits) for row in rows) in text, key
    assert f"({rows[0]['negatives']} independent" in text
    assert f"{rows[0]['positives']} thefts" in text
    assert rows[0]["command"] in text


def test_other_targets_of_fashion_are_what_the_committed_results_say():
    text = prose("docs/cohort.md")
    for row in json.loads((ROOT / "results" / "open-world" / "fashion.json").read_text()):
        name = "open world" if row["protocol"] == "open-world" else "the paper's"
        cells = [f"`{row['title']}`"]
        cells += [with_interval(row[key]) for key in ("aruc", "auc", "robustness_at_full_uniqueness")]
        cells += [f"{with_interval(row['false_accusations'], 1)} of {row['negatives']}"]
        cells += [f"{with_interval(row['missed'], 1)} of {row['positives']}"]
        assert f"| {row['target']}, {name} | {' | '.join(cells)} |" in text
        assert row["command"] in text


def test_the_harder_tables_are_rendered_from_the_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    harder = importlib.import_module("harder_page")
    assert harder.PAGE.read_text() == harder.rendered()


def test_what_parts_of_the_cohort_bring_is_what_the_committed_results_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    parts = importlib.import_module("cohort_parts")
    text = prose("docs/cohort-development.md")
    rows = json.loads((ROOT / "results" / "cohort-parts" / "warfarin.json").read_text())
    assert rows[0]["command"] in text
    for on_paper, outside in zip(rows[::2], rows[1::2], strict=True):
        assert parts.shown(on_paper, outside) in text


@pytest.mark.parametrize("name", ["docs/results.md", "results/paper/report.md"])
def test_the_papers_page_is_rendered_from_the_committed_results(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    (tmp_path / "docs").mkdir()
    page.write(Path("results/paper"), Path(name))
    assert (tmp_path / name).read_text() == (ROOT / name).read_text()


def test_what_is_harder_is_what_the_committed_results_say():
    text = prose("docs/harder.md")
    rows = json.loads((ROOT / "results" / "warfarin-few" / "results.json").read_text())
    for value in {row["models"] for row in rows}:
        cells = [with_interval(row[key]) for row in rows if row["models"] == value for key in ("aruc", "auc")]
        assert f"| {35 if value is None else value} | {' | '.join(cells)} |" in text
    assert rows[0]["command"] in text
    rows = json.loads((ROOT / "results" / "warfarin-unseen-obfuscation" / "results.json").read_text())
    missed = [row["missed"]["mean"] for row in rows if row["left_out"] == "Distillation"]
    assert "of the 26 students {:.1f} and {:.1f}.".format(*missed) in text
    rows = json.loads((ROOT / "results" / "skin-unseen-obfuscation" / "results.json").read_text())
    missed, seen = ([row[key]["mean"] for row in rows] for key in ("missed", "auc"))
    assert rows[1]["scheme"] == "cohort"
    assert (missed[1], rows[1]["false_accusations"]["mean"]) == (0, 0)
    assert f"ARUC {rows[1]['aruc']['mean']:.3f}, AUC {seen[1]:.3f}" in text
    assert f"misses {missed[0]:.1f} of the {rows[0]['positives']}, AUC {with_interval(rows[0]['auc'])}" in text
    rows = json.loads((ROOT / "results" / "skin-unseen-obfuscation-rebuilt" / "results.json").read_text())
    counts = {row["left_out"]: row["positives"] for row in rows}
    assert "all {WP} with pruned weights, all {FT} fine-tuned and all {RT} retrained".format(**counts) in text
    assert {row["left_out"] for row in rows if row["missed"]["mean"] == 0} == {"WP", "FT", "RT"}
    assert not any(row["false_accusations"]["mean"] for row in rows)
    (row,) = (row for row in rows if row["left_out"] == "FP")
    assert f"Of the {counts['FP']} with pruned filters it misses {row['missed']['mean']:.1f}, all of them tuned" in text
    assert f"gone; AUC is {with_interval(row['auc'])}." in text
    scores = pd.read_csv(ROOT / "results" / "skin-unseen-obfuscation-rebuilt" / "scores.csv")
    missed = scores[scores.positive & ~scores.derived].lineage.unique()
    assert all(re.match(r"target>fp\(0\.(25|[3-9])\d*\)>ftal\(", lineage) for lineage in missed)
    rows = json.loads((ROOT / "results" / "skin-unseen-architecture" / "results.json").read_text())
    same, other = sorted(rows, key=lambda row: row["left_out"])  # M, S
    assert f"accuses {with_interval(same['false_accusations'], 1)} of {same['negatives']}: " in text
    assert (
        f"misses {same['missed']['mean']:.1f} of {same['positives']} thefts, and AUC is {with_interval(same['auc'])}"
        in text
    )
    assert f"accuses nobody (AUC {other['auc']['mean']:.3f}), and misses {other['missed']['mean']:.1f} of" in text
    assert other["false_accusations"]["mean"] == 0
    scores = pd.read_csv(ROOT / "results" / "skin-unseen-architecture" / "scores.csv")
    strange = scores[~scores.positive & (scores.left_out == "M")]
    own, public, garments = (
        strange[strange.lineage.str.contains(f"({data},", regex=False)].derived
        for data in ("own", "public", "garments")
    )
    assert f": {own.sum()} of {len(own)} scores of independent ResNet-18s that learnt from the owner's images" in text
    assert f"none of {len(public)} of those that learnt from public ones, and {garments.sum()} of" in text
    assert f" of {len(garments)} of garments." in text
    assert not public.any()
    students = scores[(scores.left_out == "S") & (scores.family == "Distillation S")].derived
    assert f"among them {(~students).sum()} of {len(students)} scores of SqueezeNet students" in text
    rows = json.loads((ROOT / "results" / "skin-api" / "results.json").read_text())
    found = {(row["scheme"].split("(")[0], row["view"]): f"{row['aruc']['mean']:.3f}" for row in rows}
    assert f"ARUC {found['metav', 'label']}, with all of the answer {found['metav', None]}" in text
    cut = "falls from {} to {} with 2 digits, {} with the top 3 and {} with the label alone"
    views = (None, "2 digits", "top 3", "label")
    assert cut.format(*(found["cohort", view] for view in views)) in text
    rows = json.loads((ROOT / "results" / "skin-api-rebuilt" / "results.json").read_text())
    found = {(row["scheme"].split("(")[0], row["view"]): f"{row['aruc']['mean']:.3f}" for row in rows}
    assert f"ARUC is {found['metav', 'label']} with the label alone instead of {found['metav', None]}" in text
    cut = "falls from {} to {}, {} and {}, while it accuses nobody"
    assert cut.format(*(found["cohort", view] for view in views)) in text
    assert not any(row["false_accusations"]["mean"] for row in rows if row["scheme"] == "cohort")


def test_the_price_of_valid_queries_is_what_the_committed_results_say():
    text = prose("docs/own-model.md")
    rows = json.loads((ROOT / "results" / "warfarin-valid" / "results.json").read_text())
    for row in rows:
        cells = [with_interval(row[key]) for key in ("aruc", "auc", "robustness_at_full_uniqueness")]
        cells += [with_interval(row[key], 1) for key in ("false_accusations", "missed")]
        assert f"| `{row['scheme']}` | {' | '.join(cells)} |" in text
    assert rows[0]["command"] in text


def test_where_the_cohort_falls_short_is_what_the_committed_results_say():
    text = prose("docs/cohort.md")
    rows = json.loads((ROOT / "results" / "paper" / "warfarin" / "results.json").read_text())
    (row,) = (row for row in rows if row["scheme"] == "cohort")
    assert f"ARUC {with_interval(row['aruc'])}" in text
    assert f"robustness at 100 % uniqueness {with_interval(row['robustness_at_full_uniqueness'])}" in text
    assert f"{row['false_accusations']['mean']:.1f} false accusations of {row['negatives']}" in text
    shares = {name: found["recognised"] for name, found in row["by_lineage"].items() if found["positive"]}
    students = {name.split()[1]: shares.pop(name) for name in list(shares) if name.startswith("Distillation")}
    others = {name: row["by_lineage"][f"Distillation {name}"]["n"] for name in "ML"}
    mean = sum(students[name] * count for name, count in others.items()) / sum(others.values())
    assert f"of the students of shape S {students['S']:.0%}, of the others {mean:.0%},".replace("%", " %") in text
    assert set(shares.values()) == {1}
    assert row["command"] in text


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_table_of_schemes_says_what_they_need():
    rows = re.findall(
        r"^\| `([\w-]+)` \((.*)\) \| (.*) \| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(schemes.SCHEMES)
    words = {"labels": "class labels", "vectors": "several values", "anything": "anything"}
    for name, _, answers, target, learns in rows:
        needs = schemes.SCHEMES[name].needs
        assert answers == words[needs.answers] + ("; 2 N answers" if needs.per_query == 2 else "")
        assert target == ("gradients" if needs.gradients else "answers")
        assert ("thefts from them" in learns) is needs.cohort
        assert ("stolen and independent models" in learns) is needs.thefts
        assert ("examples" in learns or "images" in learns) is needs.data
        assert ("--snapshots" in learns) is needs.snapshots


def test_the_table_of_skins_zoo_is_that_of_its_listing():
    text = prose("docs/skin.md")
    models = pd.DataFrame(json.loads((ROOT / "results" / "zoo" / "skin.json").read_text())["models"])
    for family, group in models.groupby("family"):
        accuracy = ", ".join(f"{x:.3f}" for x in (group.accuracy.min(), group.accuracy.mean(), group.accuracy.max()))
        row = f"| {family} | {len(group)} | {accuracy} | {group.agreement.mean():.3f} | {group.seconds.mean():.0f} |"
        assert row in text
    assert f"together took {models.seconds.sum() / 120:.0f} minutes" in text


def test_the_activations_that_train_side_by_side_are_those_of_the_code():
    said = re.search(r"biases and activations \((.*?)\)", prose("docs/own-model.md"))
    assert said is not None
    assert said[1] == ", ".join(f"`{each.__name__}`" for each in ACTIVATIONS)


def test_what_skins_zoo_of_another_processor_holds_is_what_its_listing_says():
    text = prose("docs/skin.md")
    listed = [
        pd.DataFrame(json.loads((ROOT / "results" / "zoo" / f"{name}.json").read_text())["models"])
        for name in ("skin", "skin-epyc")
    ]
    assert f"weights for all {len(listed[0])} models" in text
    assert (listed[0].set_index("lineage").digest != listed[1].set_index("lineage").digest).all()
    assert f"after {listed[1].seconds.sum() / 120:.0f} minutes for two processes" in text
    apart = (listed[0].groupby("family").accuracy.mean() - listed[1].groupby("family").accuracy.mean()).abs().max()
    assert f"from those above by at most {apart:.3f}." in text


def test_how_far_warfarins_suspects_agree_is_what_their_listing_says():
    listed = pd.DataFrame(json.loads((ROOT / "results" / "zoo" / "warfarin.json").read_text())["models"])
    means = listed.groupby("family").agreement.mean()
    said = re.search(r"on average (.*?), (.*?) and (.*?)\).*\((.*?), (.*?) and (.*?)\):", prose("docs/warfarin.md"))
    assert said is not None
    families = [f"{kind} {size}" for kind in ("Distillation", "Independent") for size in "SML"]
    assert list(said.groups()) == [f"{means[family]:.2f}" for family in families]
