"""All schemes on all kinds of tiny models: conformance, what each needs, and what a benchmark says where it lacks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

import tiny
from metav import benchmark, results, schemes
from metav.cli import main
from metav.errors import UsageError
from metav.report import line
from metav.results import COUNTS, METRICS, with_interval
from metav.schemes import SCHEMES
from metav.testing import check_scheme
from metav.verification import verify

SHORT = {
    "metav": "metav(iterations=60,lr=0.01)",
    "cohort": "cohort(pool=100,level=0.05)",
    "liteguard": "liteguard(iterations=60,lr=0.05)",
    "ipguard": "ipguard(steps=20)",
    "deepfoolfp": "deepfoolfp",
    "conferae": "conferae(steps=15,lr=0.005)",
    "modeldiff": "modeldiff(steps=5)",
    "sac-m": "sac-m",
    "akh": "akh",
}
KINDS = {
    "classifiers": tiny.classifiers,
    "classifiers of two": lambda: tiny.classifiers(2),
    "tables": tiny.tables,
    "regressors": tiny.regressors,
    "generators": tiny.generators,
}
ALL_BUT_SAC = set(SHORT) - {"sac-m"}
USABLE = {
    "classifiers": set(SHORT),
    "classifiers of two": set(SHORT),
    "tables": ALL_BUT_SAC,
    "regressors": {"metav", "cohort", "liteguard", "modeldiff"},
    "generators": {"metav", "cohort", "liteguard", "modeldiff"},
}
DOSES = replace(tiny.REGRESSION, output_shape=(1,))  # as Warfarin's


def test_every_scheme_is_in_the_table():
    assert list(SHORT) == list(SCHEMES)
    assert all(schemes.get(text).needs is SCHEMES[name].needs for name, text in SHORT.items())


@pytest.mark.parametrize("kind", KINDS)
def test_needs_say_who_can_be_used(kind):
    spec = KINDS[kind]().spec
    assert {name for name in SHORT if not SCHEMES[name].needs.lacking(spec)} == USABLE[kind]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in USABLE.items() for name in sorted(names)])
def test_conforms(kind, name):
    queries = 40 if name == "cohort" else 8  # few answers of two classes do not tell an owner from its teachers
    check_scheme(schemes.get(SHORT[name]), KINDS[kind](), queries=queries, seed=3)


OPTIONS = [
    "ipguard(other=least)",
    "deepfoolfp(candidates=2)",
    "metav(start=data,standardise=robust,lr=0.02,iterations=40)",
]


@pytest.mark.parametrize("text", OPTIONS)
def test_conforms_with_options_and_a_single_query(text):
    check_scheme(schemes.get(text), tiny.classifiers(), queries=1, seed=0)


# -- what is lacking ------------------------------------------------------------------------------------------------

LACKING = [
    ("ipguard", tiny.REGRESSION, "class labels"),
    ("akh", tiny.CODES, "class labels"),
    ("deepfoolfp", replace(tiny.TABLES, output_shape=(1,)), "class labels"),
    ("conferae(steps=3)", DOSES, "class labels"),
    ("modeldiff", DOSES, "answers of several values"),
    ("sac-m", DOSES, "answers of several values"),
    ("sac-m", tiny.CODES, "images as inputs"),
]


@pytest.mark.parametrize(("text", "spec", "lacks"), LACKING)
def test_require_says_in_one_sentence_what_is_lacking(text, spec, lacks):
    name = text.partition("(")[0]
    expected = (
        rf"^expected models with {lacks} for {name}, got ones that answer \(.*\) with {spec.output} of shape .*: "
    )
    with pytest.raises(UsageError, match=expected):
        schemes.require(text, spec)
    ensemble = replace(tiny.regressors(), spec=spec, data=torch.zeros(2, *spec.input_shape))
    with pytest.raises(UsageError, match=expected):
        schemes.get(text).construct(ensemble, queries=4, seed=0)


def test_require_lets_through_what_can_be_used():
    for kind, names in USABLE.items():
        for name in names:
            schemes.require(SHORT[name], KINDS[kind]().spec)


def test_the_command_line_lists_every_scheme_with_its_needs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["schemes"]) == 0
    shown = capsys.readouterr().out
    found = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert list(found) == list(SCHEMES)
    for name, words in {
        "metav": ("answers of any kind", "gradients", "stolen and independent models", "none"),
        "ipguard": ("class labels", "gradients", "target, independent models", "examples"),
        "modeldiff": ("answers of several values", "2 N", "gradients"),
        "sac-m": ("answers of several values", "│ answers", "images"),
        "akh": ("class labels", "│ answers", "target, independent models"),
        "conferae": ("class labels", "stolen and independent models"),
    }.items():
        assert all(word in found[name] for word in words), name


@pytest.mark.parametrize("command", ["bench warfarin --out out", "fingerprint warfarin --out out/fp.safetensors"])
@pytest.mark.parametrize(("scheme", "words"), [("ipguard", "class labels"), ("modeldiff(steps=3)", "several values")])
def test_a_scheme_that_cannot_be_used_is_a_sentence_and_leaves_nothing(
    command, scheme, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAV_HOME", str(tmp_path))
    assert main([*command.split(), "--scheme", scheme]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("metav: expected models with ")
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


# -- a benchmark with a scheme that cannot be used -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(smoke_zoo, tmp_path_factory):
    """IPGuard, which Warfarin's doses do not suit, and MetaV."""
    out = tmp_path_factory.mktemp("bench")
    arguments = ["bench", "warfarin", "--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(out)]
    options = ["--repeats", "2", "--queries", "3", "--jobs", "1"]
    assert main([*arguments, "--scheme", "ipguard", "metav(iterations=2)", "sac-m", *options]) == 0
    return out


def test_what_cannot_be_used_has_rows_without_figures(bench):
    rows = {row["scheme"]: row for row in json.loads((bench / "results.json").read_text())}
    assert list(rows) == ["metav(iterations=2)", "ipguard", "sac-m"]
    figures = [*METRICS, "construct_seconds", "verify_seconds"]
    for name, reason in (("ipguard", "class labels"), ("sac-m", "answers of several values")):
        row = rows[name]
        assert row["not_applicable"] == f"needs {reason}"
        assert all(row[key] is None for key in figures)  # and never 0
        assert row["by_lineage"] == {}
        assert row.keys() - {"not_applicable"} == rows["metav(iterations=2)"].keys()
    assert all(rows["metav(iterations=2)"][key] is not None for key in figures)


def test_what_cannot_be_used_is_na_in_the_report(bench):
    report = (bench / "report.md").read_text()
    for scheme in ("ipguard", "sac-m"):
        verdicts, by_use = (row for row in report.splitlines() if row.startswith(f"| `{scheme}` |"))
        assert verdicts == line(f"`{scheme}`", *["n/a"] * (len(METRICS) + len(COUNTS) + 2))  # and two of seconds
        assert by_use == line(f"`{scheme}`", *["n/a"] * 6)
    assert report.count("\n| `metav(iterations=2)` | ") == 2
    assert "`ipguard` is n/a: it needs class labels." in report
    assert report.count("## `") == 1
    assert set(pd.read_csv(bench / "scores.csv").scheme) == {"metav(iterations=2)"}
    assert [path.name for path in bench.glob("*.svg")] == ["warfarin-metav-iterations-2.svg"]
    assert with_interval(None) == "n/a"


def test_rows_are_as_many_as_schemes_whatever_lacks(smoke_zoo):
    cells = benchmark.run(
        smoke_zoo, benchmark.planned(smoke_zoo, ["metav(iterations=2)", "akh"], repeats=1, queries=[3]), jobs=1
    )
    assert {each.cell.scheme for each in cells} == {"metav(iterations=2)"}
    assert benchmark.lacking(smoke_zoo, "akh") == benchmark.lacking(smoke_zoo, "cohort(labels=1)") == "class labels"
    with pytest.raises(UsageError, match=r"expected models with class labels for cohort\(labels=1\)"):
        benchmark.require(smoke_zoo, "cohort(labels=1)")
    assert benchmark.lacking(smoke_zoo, "cohort") == ""
    (alone,) = results.rows(smoke_zoo.scenario, cells, "x")
    assert "not_applicable" not in alone
    _, row = results.rows(smoke_zoo.scenario, cells, "x", {"akh": "class labels"})
    assert (row["scheme"], row["auc"], row["queries"], row["command"]) == ("akh", None, 3, "x")


# -- what suspects are asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHORT)
def test_a_suspect_is_asked_once_for_all_queries(name):
    ensemble = tiny.classifiers()
    made = schemes.get(SHORT[name]).construct(ensemble, queries=5, seed=0)
    asked = []

    def suspect(x):
        asked.append(len(x))
        return ensemble.target(x)

    verify(made, suspect)
    assert asked == [5 * SCHEMES[name].needs.per_query]


def test_a_benchmark_reads_each_suspect_once(smoke_zoo, monkeypatch):
    read: Counter[str] = Counter()
    load = type(smoke_zoo).load

    def counted(zoo, lineage):
        read[lineage] += 1
        return load(zoo, lineage)

    monkeypatch.setattr(type(smoke_zoo), "load", counted)
    benchmark.run_cell(smoke_zoo, benchmark.Cell(scheme="metav(iterations=2)", repetition=0, queries=4))
    expected = {"target", *(suspect.lineage for suspect in smoke_zoo.scenario.suspects)}
    assert read == dict.fromkeys(expected, 1)


def test_the_tiny_classifiers_have_batch_norm_that_a_scheme_could_change():
    ensemble = tiny.classifiers()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in ensemble.target.modules())
    assert not any(module.training for module in ensemble.target.modules())
