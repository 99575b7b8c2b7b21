"""Few models to construct from, and snapshots of trainings that come with them."""

from __future__ import annotations

import json

import pytest
import torch

from metav import benchmark, protocols
from metav.cli import main
from metav.engine import one_thread
from metav.errors import UsageError
from metav.zoo import Zoo

FRACTIONS = (0.3, 0.5, 0.9)


@pytest.fixture(scope="module")
def zoo(warfarin, tmp_path_factory):
    found = Zoo(warfarin, tmp_path_factory.mktemp("snapshots") / "zoo", FRACTIONS)
    found.build(jobs=1)
    return found


def trained(zoo: Zoo) -> list[str]:
    return [s.lineage for s in zoo.scenario.suspects if "wp" not in s.lineage]


def test_each_training_leaves_its_snapshots(zoo):
    for lineage in trained(zoo):
        epochs = zoo.scenario.lineage(lineage).training.epochs
        kept = [zoo.scenario.lineage(text).training.until for text in zoo.snapshots(lineage)]
        assert kept == sorted({min(max(1, round(part * epochs)), epochs - 1) for part in FRACTIONS})
        for text in zoo.snapshots(lineage):
            assert zoo.record(text).lineage == text
    assert zoo.snapshots("target>wp(0.3)") == []
    assert zoo.snapshots("target") == []  # nothing learns from them
    kept = [zoo.record(text).quality["agreement"] for text in zoo.snapshots(trained(zoo)[0])]
    assert kept
    assert max(kept) < 1


@pytest.mark.parametrize("family", ["FTAL", "Distillation M", "Independent L"])
def test_a_snapshot_is_the_training_stopped_there_and_not_its_end(zoo, family):
    lineage = next(s.lineage for s in zoo.scenario.suspects if s.family == family)
    snapshot = zoo.snapshots(lineage)[0]
    step = zoo.scenario.lineage(snapshot)
    draft = step.step.draft(zoo.load(step.parent) if step.parent else None, zoo.scenario.fresh)
    with one_thread():
        zoo.scenario.fit([draft], zoo.scenario.parts)
    found, end = zoo.load(snapshot).state_dict(), zoo.load(lineage).state_dict()
    for name, tensor in draft.model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
        assert not torch.equal(found[name], end[name])


def test_keeping_snapshots_changes_no_suspect(zoo, smoke_zoo):
    for lineage in smoke_zoo.lineages():
        assert zoo.record(lineage).digest == smoke_zoo.record(lineage).digest


def test_a_snapshot_that_is_missing_is_made_again(zoo):
    lineage = trained(zoo)[0]
    digest = zoo.record(zoo.snapshots(lineage)[0]).digest
    for file in zoo.files(zoo.snapshots(lineage)[0]):
        file.unlink()
    assert zoo.build(jobs=1) == 1
    assert zoo.record(zoo.snapshots(lineage)[0]).digest == digest


def test_fewer_models_are_among_more_and_too_many_are_refused(zoo):
    construction, _ = protocols.split(zoo.scenario.suspects, 3)
    one, two = (protocols.few(construction, count) for count in (1, 2))
    assert set(one) < set(two) < set(construction)
    assert [s.positive for s in two] == [True, True, False, False]
    assert set(protocols.few(construction, 0)) == set(construction)
    with pytest.raises(UsageError, match=r"expected at most \d+ models a side .*, got 1000"):
        protocols.few(construction, 1000)


def test_only_schemes_that_learn_from_snapshots_get_them(zoo):
    suspects = protocols.few(protocols.split(zoo.scenario.suspects, 0)[0], 2)
    plain, more = (benchmark.ensemble(zoo, suspects, snapshots=wanted) for wanted in (False, True))
    assert (len(plain.positives), len(plain.negatives)) == (2, 2)
    extra = [len(zoo.snapshots(s.lineage)) for s in suspects]
    assert (len(more.positives), len(more.negatives)) == (2 + sum(extra[:2]), 2 + sum(extra[2:]))


def test_bench_with_one_and_two_models_a_side(zoo, tmp_path):
    where = ["bench", "warfarin", "--profile", "smoke", "--zoo", str(zoo.folder), "--out", str(tmp_path)]
    schemes = ["--scheme", "metav(iterations=5)", "liteguard(iterations=5)", "akh"]
    assert main([*where, *schemes, "--models", "1", "2", "--repeats", "1", "--queries", "4"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["scheme"], row["models"]) for row in rows] == [
        ("metav(iterations=5)", 1),
        ("metav(iterations=5)", 2),
        ("liteguard(iterations=5)", 1),
        ("liteguard(iterations=5)", 2),
        ("akh", None),
    ]
    assert rows[-1]["auc"] is None
    assert rows[-1]["not_applicable"] == "needs class labels"
    assert "1 model a side" in (tmp_path / "report.md").read_text()
