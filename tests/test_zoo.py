"""The zoo: composition, content addresses, resumption after real kills, damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from metav import scenarios
from metav.errors import IntegrityError, SettingsError, StorageError
from metav.zoo import Zoo

BUILD = [
    sys.executable,
    "-c",
    "from metav.cli import main; raise SystemExit(main())",
    "zoo",
    "build",
    "warfarin",
]


def digests(zoo: Zoo) -> dict[str, str]:
    return {lineage: zoo.record(lineage).digest for lineage in zoo.lineages()}


@pytest.fixture
def copy(smoke_zoo, tmp_path):
    shutil.copytree(smoke_zoo.folder, tmp_path / "copy")
    return Zoo(smoke_zoo.scenario, tmp_path / "copy")


def test_composition_is_table_3():
    scenario = scenarios.load("warfarin", "cpu")
    assert Counter(suspect.family for suspect in scenario.suspects if suspect.positive) == {
        "FTLL": 2,
        "FTAL": 2,
        "RTLL": 2,
        "RTAL": 2,
        "WP": 36,
        "Distillation S": 10,
        "Distillation M": 10,
        "Distillation L": 6,
    }
    assert Counter(suspect.family for suspect in scenario.suspects if not suspect.positive) == {
        "Independent S": 20,
        "Independent M": 20,
        "Independent L": 20,
        "Irrelevant": 10,
    }
    assert len({suspect.lineage for suspect in scenario.suspects}) == 140
    assert all(suspect.lineage.startswith("target>") == suspect.positive for suspect in scenario.suspects)
    target = scenario.lineage("target").full
    assert all(scenario.lineage(s.lineage).text != "target" for s in scenario.suspects), target


def test_every_model_is_planned_once_after_its_parent(smoke_zoo):
    seen: set[str] = set()
    for level in smoke_zoo.plan():
        for group in level:
            parents = {smoke_zoo.scenario.lineage(text).parent for text in group} - {None}
            assert parents <= seen
        made = [text for group in level for text in group]
        assert not seen.intersection(made)
        assert len(made) == len(set(made))
        seen.update(made)
    assert seen == set(smoke_zoo.lineages())


def test_more_of_a_kind_train_side_by_side_where_there_are_many():
    zoo = Zoo(scenarios.load("warfarin", "cpu"), cohort=True)
    sizes = [len(group) for level in zoo.plan() for group in level]
    assert max(sizes) == 64
    assert {size for size in sizes if size > 16} == {32, 48, 64}  # multiples of 16
    table = Zoo(zoo.scenario).plan()
    assert max(len(group) for level in table for group in level) == 16


def test_derivation_really_changes_models_and_records_say_so(smoke_zoo):
    target = smoke_zoo.load("target")
    for suspect in smoke_zoo.scenario.suspects:
        model = smoke_zoo.load(suspect.lineage)
        record = smoke_zoo.record(suspect.lineage)
        assert 0 <= record.quality["agreement"] <= 1
        assert record.quality["mae_mg_per_week"] > 0
        assert record.parameters == sum(p.numel() for p in model.parameters())
        assert not model.training
        if record.parameters == smoke_zoo.record("target").parameters:
            pairs = zip(model.parameters(), target.parameters(), strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs), suspect.lineage


def test_quality_is_mean_absolute_error_and_agreement_within_5_percent(smoke_zoo):
    lineage = smoke_zoo.scenario.suspects[0].lineage
    test = smoke_zoo.scenario.parts["test"]
    doses, target = (smoke_zoo.load(name)(test.x).squeeze(1).tolist() for name in (lineage, "target"))
    truth = test.y.squeeze(1).tolist()
    quality = smoke_zoo.record(lineage).quality
    assert quality["mae_mg_per_week"] == pytest.approx(
        sum(abs(a - b) for a, b in zip(doses, truth, strict=True)) / len(truth)
    )
    near = [abs(a - b) <= 0.05 * b for a, b in zip(doses, target, strict=True)]
    assert quality["agreement"] == pytest.approx(sum(near) / len(near), abs=1e-6)
    assert smoke_zoo.record("target").quality["agreement"] == 1


def test_building_again_trains_nothing(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.folder.glob("*.safetensors")}
    assert copy.build(jobs=1) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.folder.glob("*.safetensors")} == before


def test_what_is_missing_is_rebuilt_to_the_same_bytes(copy, smoke_zoo):
    gone = [copy.lineages()[index] for index in (0, 5, 17, 30)]
    for lineage in gone:
        copy._record(lineage).unlink()
    copy._weights(gone[1]).unlink()
    assert copy.build(jobs=1) == len(gone)
    assert digests(copy) == digests(smoke_zoo)
    assert copy.verify() == []


def count(folder: Path) -> int:
    return len(list(folder.glob("????????????????.json")))


def test_killed_at_any_moment_it_resumes_and_ends_in_the_same_zoo(tmp_path, smoke_zoo):
    folder = tmp_path / "zoo"
    command = [*BUILD, "--profile", "smoke", "--zoo", str(folder)]
    reached = []
    for enough, wait, kill in ((1, 0.0, os.killpg), (6, 0.1, os.kill), (20, 0.03, os.killpg), (33, 0.0, os.killpg)):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None and count(folder) < enough:
            time.sleep(0.002)
        time.sleep(wait)
        kill(process.pid, signal.SIGKILL)  # the builder with its workers, or the builder alone
        process.wait()
        assert process.returncode == -signal.SIGKILL, "the build ended before it was killed"
        reached.append(count(folder))
        for record in folder.glob("????????????????.json"):
            json.loads(record.read_bytes())
    assert reached == sorted(reached)
    assert reached[-1] < len(smoke_zoo.lineages())
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert digests(Zoo(smoke_zoo.scenario, folder)) == digests(smoke_zoo)


def test_two_builders_at_once_make_one_zoo(tmp_path, smoke_zoo):
    command = [*BUILD, "--profile", "smoke", "--zoo", str(tmp_path / "zoo"), "--jobs", "1"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert digests(Zoo(smoke_zoo.scenario, tmp_path / "zoo")) == digests(smoke_zoo)


def test_a_zoo_of_other_settings_is_refused_with_both_values(copy):
    other = Zoo(scenarios.load("warfarin", "cpu"), copy.folder)
    for call in (other.check_settings, other.build):
        with pytest.raises(SettingsError, match=r"expected a zoo with profile 'cpu' .* got one with profile 'smoke'"):
            call()


def test_a_zoo_of_other_models_or_training_is_refused_without_a_digest(copy):
    path = copy.folder / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "0123456789abcdef"}))
    with pytest.raises(SettingsError, match=r"a zoo of the same models and training in .*, got one of others: choose"):
        copy.check_settings()


def test_no_zoo_is_not_an_empty_zoo(warfarin, tmp_path):
    with pytest.raises(StorageError, match=r"run metav zoo build warfarin --profile smoke --zoo \S+ first"):
        Zoo(warfarin, tmp_path / "none").verify()


def test_the_command_that_builds_what_is_missing_builds_all_of_it(warfarin, tmp_path):
    zoo = Zoo(warfarin, tmp_path, (0.5,), cohort=True, open_world=True)
    assert zoo.command.endswith(f"--zoo {tmp_path} --snapshots --cohort --open-world")
    with pytest.raises(StorageError, match="--cohort --open-world"):
        zoo.record(zoo.open_world[0].lineage)


def damage_truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_edit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


def damage_swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


@pytest.mark.parametrize("damage", [damage_truncate, damage_edit, damage_swap])
def test_damaged_weights_are_found_and_can_be_mended(copy, smoke_zoo, damage):
    bad, good = copy.lineages()[3], copy.lineages()[4]
    damage(copy._weights(bad), copy._weights(good))
    with pytest.raises(
        IntegrityError, match=r"delete \w+\.\* there and run metav zoo build warfarin --profile smoke --zoo \S+ again"
    ):
        copy.load(bad)
    problems = copy.verify()
    assert len(problems) == 1
    for path in copy.folder.glob(f"{copy.identity(bad)}.*"):
        path.unlink()
    copy.build(jobs=1)
    assert digests(copy) == digests(smoke_zoo)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(digest=5),
        lambda record: record["quality"].update(mae_mg_per_week=0.0),
        lambda record: record.update(lineage="target"),
        lambda record: record.pop("seal"),
        lambda record: record.clear(),
    ],
)
def test_an_edited_record_is_found(copy, change):
    path = copy._record(copy.lineages()[3])
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))
    (problem,) = copy.verify()
    assert "got a truncated, edited or foreign file" in problem


def test_a_truncated_record_is_found(copy):
    path = copy._record(copy.lineages()[3])
    path.write_bytes(path.read_bytes()[:20])
    (problem,) = copy.verify()
    assert "truncated" in problem


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", '{"format": "0"}'])
def test_damaged_settings_are_refused(copy, content):
    (copy.folder / "zoo.json").write_text(content)
    with pytest.raises((IntegrityError, SettingsError), match="expected"):
        copy.verify()


def test_weights_without_which_a_record_is_nothing_are_trained_again(copy, smoke_zoo):
    copy._weights("target").unlink()
    assert copy.build(jobs=1) == 1
    assert digests(copy) == digests(smoke_zoo)


def test_a_whole_zoo_can_be_read_only(copy):
    for path in copy.folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.folder.chmod(0o555)
    before = sorted(copy.folder.iterdir())
    copy.prepare()
    assert copy.build(jobs=1) == 0
    assert sorted(copy.folder.iterdir()) == before


def test_identity_depends_on_every_parameter_and_on_the_parents(smoke_zoo):
    texts = [
        "target>wp(0.3)",
        "target>wp(0.3,global)",
        "target>wp(0.31)",
        "target>ftal(public,10ep,lr=0.001,batch=64,seed=1)",
        "target>ftal(public,10ep,lr=0.001,batch=64,seed=2)",
        "target>ftal(public,10ep,lr=0.002,batch=64,seed=1)",
        "target>wp(0.3)>ftal(public,10ep,lr=0.001,batch=64,seed=1)",
    ]
    assert len({smoke_zoo.identity(text) for text in texts}) == len(texts)
    full = Zoo(scenarios.load("warfarin", "cpu"))
    assert full.identity("target>wp(0.3)") != smoke_zoo.identity("target>wp(0.3)")  # another target
