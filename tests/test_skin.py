"""Skin: data, architectures, composition, distillation, and a whole zoo at smoke size; killed, shared, exported."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn
from torch.nn.functional import interpolate

from metav import archive, benchmark, protocols, scenarios
from metav.cli import main
from metav.engine import one_thread
from metav.errors import IntegrityError, SettingsError, StorageError, UsageError
from metav.scenarios import data, fashion_data, skin, skin_data, skin_nets
from metav.suspects.base import layers
from metav.zoo import Zoo


@pytest.fixture(scope="module")
def scenario():
    return scenarios.load("skin", "smoke")


@pytest.fixture(scope="module")
def zoo(scenario, tmp_path_factory):
    """A whole zoo of the smoke profile; read only."""
    found = Zoo(scenario, tmp_path_factory.mktemp("skin") / "zoo")
    found.build(jobs=2)
    return found


# -- composition and architectures --------------------------------------------------------------------------------


def test_composition_is_table_3():
    suspects = scenarios.load("skin", "cpu").suspects
    assert Counter(s.family for s in suspects if s.positive) == {
        **dict.fromkeys(("FTLL", "FTAL", "RTLL", "RTAL"), 2),
        "WP": 18,
        "FP": 30,
        "Distillation S": 4,
        "Distillation M": 4,
        "Distillation L": 2,
        "Distillation XL": 2,
        "Distillation XXL": 2,
    }
    assert Counter(s.family for s in suspects if not s.positive) == {
        "Independent S": 20,
        "Independent M": 20,
        "Independent L": 12,
        "Independent XL": 4,
        "Independent XXL": 4,
        "Irrelevant": 10,
    }
    assert len({s.lineage for s in suspects}) == 140
    assert all(s.lineage.startswith("target>") == s.positive for s in suspects)
    parts = Counter(s.lineage.split("(")[1].split(",")[0] for s in suspects if not s.positive)
    assert parts == {"own": 30, "public": 30, "garments": 10}


@pytest.mark.parametrize(
    ("name", "convolutions", "linear"), [("S", 26, 0), ("M", 20, 1), ("L", 160, 1), ("XL", 5, 3), ("XXL", 13, 3)]
)
def test_architectures_have_the_layers_of_their_papers(name, convolutions, linear):
    model = scenarios.load("skin", "cpu").fresh(name, seed=0).eval()
    found = [layer.weight.dim() for _, layer in layers(model)]
    assert (found.count(4), found.count(2)) == (convolutions, linear)
    with torch.no_grad():
        p = model(torch.rand(2, 3, 28, 28) * 2 - 1)
        logits = model.logits(torch.zeros(2, 3, 28, 28))
    assert p.shape == logits.shape == (2, 7)
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    assert (p > 0).all()


@pytest.mark.parametrize(("name", "convolutions"), [("S", 25), ("XL", 5)])
def test_below_224_pixels_batch_norm_follows_every_convolution_of_s_and_xl(name, convolutions):
    small, large = (scenarios.load("skin", profile).constructor(name)() for profile in ("cpu", "paper"))
    pairs = [block for block in small.modules() if isinstance(block, nn.Sequential) and len(block) == 2]
    normed = [block for block in pairs if [type(each).__name__ for each in block] == ["Convolution", "BatchNorm2d"]]
    assert len(normed) == convolutions
    assert not any(isinstance(each, nn.Dropout) and each.p > 0 for each in small.modules())
    assert not any(isinstance(each, nn.BatchNorm2d) for each in large.modules())  # as it was published
    assert any(isinstance(each, nn.Dropout) and each.p == 0.5 for each in large.modules())


def test_the_listing_of_classifiers_comes_with_a_figure_of_their_quality(zoo, tmp_path):
    arguments = ["zoo", "list", "skin", "--profile", "smoke", "--zoo", str(zoo.folder)]
    assert main([*arguments, "--out", str(tmp_path / "skin.json")]) == 0
    assert imread(tmp_path / "skin.png").std() > 0.05


def test_parts_share_no_image_and_lie_in_the_box():
    parts = scenarios.load("skin", "cpu").parts
    assert [len(parts[name].x) for name in ("own", "public", "test", "garments")] == [3503, 3503, 2005, 3503]
    train = [{image.numpy().tobytes() for image in parts[name].x} for name in ("own", "public")]
    assert len(train[0] & train[1]) <= 5  # the data set holds a few images twice
    for part in parts.values():
        assert part.x.shape[1:] == (3, 28, 28)
        assert (part.x.min(), part.x.max()) == (-1, 1)
        assert set(part.y.unique().tolist()) == set(range(7))


def test_inputs_are_standardised_with_the_training_images():
    x = skin_data.dermamnist("train").x
    assert x.mean((0, 2, 3)).tolist() == pytest.approx(skin_nets.MEAN, abs=1e-3)
    assert x.std((0, 2, 3)).tolist() == pytest.approx(skin_nets.STD, abs=1e-3)


# -- the zoo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 64, 20])
def test_images_are_resized_the_same_way_whether_their_gradient_is_wanted_or_not(side):
    x = torch.rand(2, 3, 28, 28, dtype=torch.double)
    slope = torch.rand(2, 3, side, side, dtype=torch.double)
    ours, theirs = (x.clone().requires_grad_(True) for _ in range(2))
    found, expected = skin_nets.resized(ours, side), interpolate(theirs, size=(side, side), mode="bilinear")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(skin_nets.resized(x, side), found)
    torch.testing.assert_close(*(torch.autograd.grad(y, w, slope) for y, w in ((found, ours), (expected, theirs))))


def test_the_smoke_zoo_is_whole_and_its_records_make_sense(zoo):
    assert zoo.verify() == []
    assert zoo.record("target").quality["agreement"] == 1
    x, y = zoo.scenario.parts["test"].x, zoo.scenario.parts["test"].y
    target = zoo.load("target")(x).argmax(1)
    for suspect in zoo.scenario.suspects:
        classes = zoo.load(suspect.lineage)(x).argmax(1)
        quality = zoo.record(suspect.lineage).quality
        assert quality["accuracy"] == pytest.approx(np.mean((classes == y).tolist()))
        assert quality["agreement"] == pytest.approx(np.mean((classes == target).tolist()))
    assert not list(zoo.folder.glob("*.checkpoint"))


def test_weights_are_pages_of_the_file_until_they_are_changed(zoo):
    before = {path: path.stat().st_mtime_ns for path in zoo.folder.glob("*.safetensors")}
    weights = zoo.files("target")[0]
    model = zoo.load("target")
    assert str(weights) in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        next(model.parameters()).zero_()  # of this process alone
    assert zoo.verify() == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("family", ["FTLL", "Distillation XL", "Independent L", "Irrelevant"])
def test_the_same_lineage_gives_the_same_bytes_whatever_else_was_trained(zoo, family):
    scenario = zoo.scenario
    lineage = [s.lineage for s in scenario.suspects if s.family == family][-1]
    parent = scenario.lineage(lineage).parent
    torch.manual_seed(99)
    draft = scenario.lineage(lineage).step.draft(zoo.load(parent) if parent else None, scenario.fresh)
    with one_thread():
        scenario.fit([draft], scenario.parts)
    expected = zoo.load(lineage).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in draft.model.state_dict().items())


def test_a_student_comes_closer_to_its_teacher_than_a_model_of_its_kind_from_scratch(scenario):
    """With the target's confidence as what is imitated: probabilities, not classes, which all are nv in smoke."""
    teacher = scenario.fresh("M", seed=0).eval()
    target = "M(own,1ep,lr=0.001,batch=8,seed=5)"
    link = "distill(public,6ep,lr=0.001,batch=8,seed=1,student=M)"
    student = replace(scenario, target=target).lineage(f"target>{link}").step.draft(teacher, scenario.fresh)
    alone = scenario.lineage("M(public,6ep,lr=0.001,batch=8,seed=1)").step.draft(None, scenario.fresh)
    with one_thread():
        scenario.fit([student, alone], scenario.parts)
    x = scenario.parts["public"].x

    def distance(model):
        return (model(x) - teacher(x)).abs().sum(1).mean().item()

    assert distance(student.model) < 0.7 * distance(alone.model)


def test_a_fingerprint_is_made_and_tested_on_classifiers(zoo):
    (result,) = benchmark.run(zoo, benchmark.planned(zoo, ["metav(iterations=2)"], repeats=1, queries=[3]), jobs=1)
    assert all(0 <= score.rate <= 1 for score in result.scores)
    assert {score.positive for score in result.scores} == {True, False}


@pytest.mark.parametrize(("scheme", "thefts"), [("metav(iterations=2)", True), ("sac-m", False)])
def test_stolen_models_reach_schemes_that_learn_from_them_alone(zoo, monkeypatch, scheme, thefts):
    construction, _ = protocols.split(zoo.scenario.suspects, 0)
    loaded, load = [], type(zoo).load
    monkeypatch.setattr(type(zoo), "load", lambda self, text: loaded.append(text) or load(self, text))
    made = benchmark.construct(zoo, scheme, construction, queries=3, seed=0)
    wanted = {zoo.scenario.lineage(each.lineage).text for each in construction if thefts or not each.positive}
    assert set(made.provenance["suspects"]) == wanted
    assert {zoo.scenario.lineage(text).text for text in loaded} == {"target", *wanted}


BUILD = [sys.executable, "-c", "from metav.cli import main; raise SystemExit(main())", "zoo", "build", "skin"]


def test_two_builders_killed_and_started_again_make_the_same_zoo(zoo, tmp_path):
    command = [*BUILD, "--profile", "smoke", "--zoo", str(tmp_path / "zoo"), "--jobs", "1"]

    def start():
        return [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            for _ in range(2)
        ]

    builders = start()
    while len(list((tmp_path / "zoo").glob("????????????????.json"))) < 5:
        time.sleep(0.01)
    for builder in builders:
        os.killpg(builder.pid, signal.SIGKILL)
        assert builder.wait() == -signal.SIGKILL
    assert [builder.wait() for builder in start()] == [0, 0]
    again = Zoo(zoo.scenario, tmp_path / "zoo")
    assert {name: again.record(name).digest for name in zoo.lineages()} == {
        name: zoo.record(name).digest for name in zoo.lineages()
    }


# -- archives -----------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(zoo, tmp_path):
    archive.export(zoo, tmp_path / "skin.tar")
    return tmp_path / "skin.tar"


def test_an_exported_zoo_is_the_same_where_it_is_imported(zoo, packed, tmp_path):
    elsewhere = Zoo(zoo.scenario, tmp_path / "elsewhere")
    assert archive.import_(elsewhere, packed) == len(zoo.lineages())
    assert elsewhere.verify() == []
    assert {p.name: p.read_bytes() for p in elsewhere.folder.glob("*.json")} == {
        p.name: p.read_bytes() for p in zoo.folder.glob("*.json")
    }
    assert archive.import_(elsewhere, packed) == 0
    assert not list(elsewhere.folder.glob(".import*"))
    assert not list(packed.parent.glob(".skin*"))


@pytest.mark.parametrize("damage", ["cut", "edit", "foreign", "gone"])
def test_a_damaged_archive_is_refused_in_one_sentence_and_leaves_nothing_wrong(zoo, packed, tmp_path, damage):
    content = bytearray(packed.read_bytes())
    if damage == "cut":
        packed.write_bytes(content[: len(content) // 2])
    elif damage == "edit":
        content[len(content) // 2] ^= 1
        packed.write_bytes(content)
    elif damage == "foreign":
        packed.write_bytes(b"no archive")
    else:
        packed.unlink()
    elsewhere = Zoo(zoo.scenario, tmp_path / "elsewhere")
    with pytest.raises((IntegrityError, StorageError), match=r"^expected .*, got .*: (export the zoo again|check)"):
        archive.import_(elsewhere, packed)
    for lineage in zoo.lineages():
        if elsewhere.has(lineage):
            elsewhere.load(lineage)
    assert not list(elsewhere.folder.glob(".import*"))


def test_a_zoo_of_other_settings_is_not_imported_and_a_part_of_one_not_exported(zoo, packed, tmp_path, warfarin):
    with pytest.raises(SettingsError, match="expected a zoo with scenario 'warfarin'"):
        archive.import_(Zoo(warfarin, tmp_path / "warfarin"), packed)
    with pytest.raises(StorageError, match="expected a zoo in"):
        archive.export(Zoo(zoo.scenario, tmp_path / "none"), tmp_path / "none.tar")
    assert not (tmp_path / "none.tar").exists()


# -- data ---------------------------------------------------------------------------------------------------------


def test_a_scenario_goes_to_other_processes_by_name_and_not_with_its_data(scenario):
    assert len(pickle.dumps(scenario)) < 1000
    assert pickle.loads(pickle.dumps(scenario)) is scenario
    changed = replace(scenario, target="M(public,1ep,lr=0.001,batch=8,seed=5)")
    assert pickle.loads(pickle.dumps(changed)).target == changed.target


def test_the_file_is_named_and_which_one_it_is(scenario):
    path, which = skin_data.fetched()
    assert which in ("official", "rebuilt")
    assert scenario.data == f"DermaMNIST, the {which} file, {path}"
    train = skin_data.dermamnist("train")
    assert Counter(train.y.tolist())[skin_data.CLASSES.index("nv")] == 4693
    assert sum(len(skin_data.dermamnist(split).x) for split in ("train", "val", "test")) == 10_015


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder has the data, and there is no network."""

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(data, "SHARED", tmp_path / "shared")
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("METAV_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    return tmp_path


def test_missing_data_is_one_sentence_with_three_ways(nowhere):
    with pytest.raises(StorageError, match=r"^expected dermamnist\.npz in .*, got none, and no download") as caught:
        skin_data.dermamnist("train")
    for way in ("--data", "METAV_DATA", "go online"):
        assert way in str(caught.value)


def test_a_file_of_other_content_is_refused_with_both_digests(nowhere, monkeypatch):
    folder = nowhere / "given"
    folder.mkdir()
    np.savez(folder / "dermamnist.npz", train_images=np.zeros((1, 28, 28, 3), np.uint8))
    monkeypatch.setenv("METAV_DATA", str(folder))
    with pytest.raises(IntegrityError, match=f"expected DermaMNIST with MD5 {skin_data.OFFICIAL_MD5} .*with MD5"):
        skin_data.dermamnist("train")


def test_a_truncated_file_that_passes_for_official_is_one_sentence(nowhere, monkeypatch):
    (nowhere / "dermamnist.npz").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setenv("METAV_DATA", str(nowhere))
    monkeypatch.setattr(skin_data, "OFFICIAL_MD5", data.digest(nowhere / "dermamnist.npz", "md5"))
    with pytest.raises(IntegrityError, match=r"^expected DermaMNIST in .*: delete it and fetch it again\.$"):
        skin_data.dermamnist("train")


@pytest.mark.parametrize("below", ["", "dermamnist"])
def test_the_folder_that_is_given_comes_first(nowhere, monkeypatch, below):
    for root in ("given", "shared"):
        (nowhere / root / below).mkdir(parents=True)
        (nowhere / root / below / "dermamnist.npz").write_bytes(root.encode())
    assert data.find(["dermamnist.npz"], ["dermamnist"]) == nowhere / "shared" / below
    monkeypatch.setenv("METAV_DATA", str(nowhere / "given"))
    assert data.find(["dermamnist.npz"], ["dermamnist"]) == nowhere / "given" / below
    assert data.find(["other"], ["dermamnist"]) is None


def test_a_folder_that_is_none_is_refused(nowhere, monkeypatch):
    monkeypatch.setenv("METAV_DATA", str(nowhere / "typo"))
    with pytest.raises(UsageError, match=r"expected a folder of data in --data or METAV_DATA, got .*typo"):
        data.find(["x"], [])


def test_garments_are_grey_images_of_seven_classes():
    part = skin_data.garments(200)
    assert part.x.shape == (200, 3, 28, 28)
    assert (part.x[:, 0] == part.x[:, 2]).all()
    grey, _ = fashion_data.fashion_mnist("train", 1)
    assert (2 * grey[0, 0] - 1 == part.x[0, 0]).all() or part.y[0] < 7
    assert set(part.y.tolist()) == set(range(7))


def test_the_recipe_of_each_profile_names_every_architecture():
    for size in skin.SIZES.values():
        assert set(size.architectures) == set(size.epochs) == set(size.lr) == set(skin.TRAINED) == set(skin.DISTILLED)
