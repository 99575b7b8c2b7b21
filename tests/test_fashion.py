"""Fashion: the paper's architectures, adversarial training, data, the judge, and a whole zoo at smoke size."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from metav import scenarios, sheets
from metav.adversarial import discriminator_loss, generator_loss, gradient_penalty
from metav.cli import main
from metav.engine import one_thread
from metav.errors import IntegrityError, StorageError
from metav.scenarios import data, fashion, fashion_data, fashion_open
from metav.scenarios.fashion_judge import judge, same_garment
from metav.scenarios.fashion_nets import LATENT
from metav.scenarios.quality import frechet
from metav.suspects.base import all_names, layers
from metav.zoo import Zoo


@pytest.fixture(scope="module")
def scenario():
    return scenarios.load("fashion", "smoke")


@pytest.fixture(scope="module")
def zoo(scenario, tmp_path_factory):
    """A whole zoo of the smoke profile; read only."""
    found = Zoo(scenario, tmp_path_factory.mktemp("fashion") / "zoo")
    found.build(jobs=1)
    return found


def same(a: nn.Module, b: nn.Module, prefix: str) -> bool:
    others = b.state_dict()
    return all(torch.equal(t, others[name]) for name, t in a.state_dict().items() if name.startswith(prefix))


# -- architectures ------------------------------------------------------------------------------------------------


def test_dcgan_is_table_1():
    gan = fashion.ARCHITECTURES["XL"]()
    shapes = [tuple(layer.weight.shape) for _, layer in layers(gan)]
    assert shapes == [(100, 128, 4, 4), (128, 64, 3, 3), (64, 32, 4, 4), (32, 1, 4, 4)]
    assert all(layer.bias is None for _, layer in layers(gan))
    critics = [m for m in gan.discriminator if isinstance(m, nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in critics] == [(32, 1, 4, 4), (64, 32, 4, 4), (128, 64, 3, 3), (1, 128, 4, 4)]


@pytest.mark.parametrize(("name", "k"), [("S", 2), ("M", 4), ("L", 6)])
def test_perceptrons_are_table_4(name, k):
    gan = fashion.ARCHITECTURES[name]()
    widths = [100, 64 * k, 128 * k, 256 * k, 784]
    assert [tuple(layer.weight.shape) for _, layer in layers(gan)] == list(zip(widths[1:], widths, strict=False))
    critics = [m for m in gan.discriminator if isinstance(m, nn.Linear)]
    back = [784, 256 * k, 128 * k, 64 * k, 1]
    assert [tuple(m.weight.shape) for m in critics] == list(zip(back[1:], back, strict=False))


@pytest.mark.parametrize("name", ["S", "M", "L", "XL"])
def test_a_gan_answers_with_its_generator_in_0_to_1(scenario, name):
    gan = scenario.fresh(name, seed=1).eval()
    images = gan(100 * torch.randn(3, 100))
    assert images.shape == (3, *scenario.spec.output_shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() > 0.6 or images.min() < 0.4
    assert gan.discriminator(images).shape == (3, 1)
    assert all(path.startswith("generator.") for path in all_names(gan))
    assert all(path.startswith("generator.") for path, _ in layers(gan))


# -- losses -------------------------------------------------------------------------------------------------------


def test_losses_are_the_logarithms_of_the_paper_of_gans():
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    literal = -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), literal)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log().mean())


def test_gradient_penalty_of_a_linear_discriminator_is_half_the_square_of_its_slope():
    critic = nn.Linear(4, 1)
    x = torch.randn(7, 4, requires_grad=True)
    torch.testing.assert_close(gradient_penalty(critic(x), x), critic.weight.square().sum() / 2)


# -- composition and zoo ------------------------------------------------------------------------------------------


def test_composition_is_table_3():
    suspects = scenarios.load("fashion", "cpu").suspects
    assert Counter(s.family for s in suspects if s.positive) == {
        **dict.fromkeys(("FTLL", "FTAL", "RTLL", "RTAL"), 2),
        "WP": 18,
        "FP": 30,
        "Distillation S": 6,
        "Distillation M": 6,
        "Distillation L": 2,
    }
    assert Counter(s.family for s in suspects if not s.positive) == {
        "Independent S": 20,
        "Independent M": 10,
        "Independent L": 10,
        "Independent XL": 20,
        "Irrelevant": 10,
    }
    assert len({s.lineage for s in suspects}) == 140
    assert all(s.lineage.startswith("target>") == s.positive for s in suspects)
    data = Counter(s.lineage.split("(")[1].split(",")[0] for s in suspects if not s.positive)
    assert data == {"own": 30, "public": 30, "digits": 10}


def test_own_public_and_test_parts_share_no_image_and_lie_in_0_to_1(scenario):
    parts = scenario.parts
    seen = [{image.numpy().tobytes() for image in parts[name].y} for name in ("own", "public", "test")]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 128 + 128 + 100
    for part in parts.values():
        assert part.x.shape == (len(part.y), *scenario.spec.input_shape)
        assert part.y.shape[1:] == scenario.spec.output_shape
        assert part.y.min() == 0
        assert part.y.max() <= 1
        assert part.x.abs().max() <= scenario.spec.high


def test_the_smoke_zoo_is_whole_and_its_records_make_sense(zoo):
    assert zoo.verify() == []
    assert zoo.record("target").quality["agreement"] == 1
    for suspect in zoo.scenario.suspects:
        quality = zoo.record(suspect.lineage).quality
        assert 0 <= quality["agreement"] <= 1
        assert 0 <= quality["frechet"] < float("inf")
        images = zoo.load(suspect.lineage)(zoo.scenario.parts["test"].x)
        assert images.isfinite().all()
        assert images.std() > 0, suspect.lineage


@pytest.mark.parametrize("family", ["FTAL", "RTLL", "FP", "Distillation S", "Independent XL", "Irrelevant"])
def test_the_same_lineage_gives_the_same_bytes_whatever_else_was_trained(zoo, tmp_path, family):
    scenario = zoo.scenario
    lineage = [s.lineage for s in scenario.suspects if s.family == family][-1]
    parent = scenario.lineage(lineage).parent
    torch.manual_seed(99)
    draft = scenario.lineage(lineage).step.draft(zoo.load(parent) if parent else None, scenario.fresh)
    with one_thread():
        scenario.fit([draft], scenario.parts)
    assert same(draft.model, zoo.load(lineage), "")


def test_tuning_changes_what_it_says_and_nothing_else(zoo):
    target = zoo.load("target")
    by_family = {s.family: zoo.load(s.lineage) for s in zoo.scenario.suspects if s.positive}
    last = "generator.10"
    for family in ("FTLL", "RTLL"):
        weights = {name: tensor for name, tensor in by_family[family].named_parameters() if "generator" in name}
        changed = {name for name, tensor in weights.items() if not torch.equal(tensor, target.get_parameter(name))}
        assert changed == {f"{last}.weight"}
        statistics = [(name, each) for name, each in by_family[family].named_buffers() if "generator" in name]
        assert statistics
        assert all(torch.equal(each, target.get_buffer(name)) for name, each in statistics)
        assert not same(by_family[family], target, "discriminator")  # adversarial training goes on
    changed = dict(by_family["FTAL"].named_parameters())
    assert all(not torch.equal(changed[name], target.get_parameter(name)) for name in all_names(target))


def test_pruning_leaves_the_discriminator_and_one_filter_and_zeros_survive_recovery(zoo):
    target = zoo.load("target")
    pruned = [s.lineage for s in zoo.scenario.suspects if s.family in ("WP", "FP")]
    for lineage in pruned:
        model = zoo.load(lineage)
        recovered = "ftal" in lineage
        assert same(model, target, "discriminator") is not recovered
        before = zoo.load(zoo.scenario.lineage(lineage).parent) if recovered else model
        for (_, layer), (_, parent) in zip(layers(model), layers(before), strict=True):
            assert layer.weight.any()
            assert not layer.weight[parent.weight == 0].any()


def test_a_student_of_fewer_steps_comes_closer_to_its_teacher_than_a_model_from_scratch(zoo):
    codes, target = zoo.scenario.parts["test"].x, zoo.load("target")

    def error(lineage):
        return (zoo.load(lineage)(codes) - target(codes)).square().mean().item()

    students = [error(s.lineage) for s in zoo.scenario.suspects if s.family == "Distillation L"]
    others = [error(s.lineage) for s in zoo.scenario.suspects if s.family == "Independent L"]
    assert np.mean(students) < np.mean(others)


def test_models_are_judged_in_eval_mode(zoo):
    model, codes = zoo.load("target"), zoo.scenario.parts["test"].x[:8]
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(codes)[:1], model(codes[:1]), atol=1e-6, rtol=0)


def test_a_sheet_shows_every_family(zoo, tmp_path):
    lineages = sheets.one_of_each(zoo)
    assert list(lineages) == ["Target", *dict.fromkeys(s.family for s in zoo.scenario.suspects)]
    rows = sheets.samples(zoo, lineages, count=4)
    figure = sheets.sheet(rows)
    assert [ax.get_ylabel() for ax in figure.axes] == list(lineages)
    figure.savefig(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_listing_of_generators_comes_with_a_sheet(zoo, tmp_path):
    arguments = ["zoo", "list", "fashion", "--profile", "smoke", "--zoo", str(zoo.folder)]
    assert main([*arguments, "--out", str(tmp_path / "fashion.json")]) == 0
    assert (tmp_path / "fashion.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "fashion.json").read_text())["models"]) == len(zoo.lineages())


# -- judge --------------------------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 2)) * [1, 2]
    b = rng.normal(size=(200_000, 2)) * [3, 1] + [1, 0]
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, b) == pytest.approx(1 + (3 - 1) ** 2 + (2 - 1) ** 2, rel=0.02)
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def test_the_judge_recognises_garments_and_is_the_same_every_time():
    x, labels = fashion_data.fashion_mnist("test", 500)
    eye = judge(3000)
    assert (eye(x).argmax(1) == labels).float().mean() > 0.7
    judge.cache_clear()
    assert same(judge(3000), eye, "")
    assert same_garment(eye, x, x) == 1
    assert same_garment(eye, x, x.flip(0)) < 0.3


# -- data ---------------------------------------------------------------------------------------------------------


def write_idx(path, values, magic=None):
    header = struct.pack(f">{1 + values.ndim}I", magic or 0x800 + values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def test_idx_files_are_read_plain_and_compressed(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "plain", values)
    (tmp_path / "packed.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    for name in ("plain", "packed"):
        assert np.array_equal(fashion_data.read_idx(tmp_path, name, (2, 3, 4)), values)


@pytest.mark.parametrize("damage", ["cut", "magic", "axes", "empty", "gzip", "block"])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    path = tmp_path / "images"
    values = np.zeros((2, 3, 4), dtype=np.uint8)
    write_idx(path, values.reshape(3, 2, 4) if damage == "axes" else values, 0x900 if damage == "magic" else None)
    content = path.read_bytes()
    if damage in ("gzip", "block"):
        path.unlink()
        packed = gzip.compress(content)
        packed = packed[:-9] if damage == "gzip" else packed[:10] + b"\xff" + packed[11:]
        (tmp_path / "images.gz").write_bytes(packed)
    elif damage in ("cut", "empty"):
        path.write_bytes(content[:-1] if damage == "cut" else b"")
    with pytest.raises(
        IntegrityError, match=r"^expected FashionMNIST's file .*, got .*: delete it and fetch it again\.$"
    ):
        fashion_data.read_idx(tmp_path, "images", (2, 3, 4))


def test_files_of_other_images_with_the_same_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("METAV_DATA", str(tmp_path))
    for images, labels, total in fashion_data.FILES.values():
        write_idx(tmp_path / images, np.zeros((total, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / labels, np.zeros(total, dtype=np.uint8))
    with pytest.raises(IntegrityError, match=r"got another one, with SHA-256 [0-9a-f]{12} instead of 5b4141f0afba"):
        fashion_data.fashion_mnist("test", 10)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder has the data, and there is no network."""

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(fashion_data, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(data, "SHARED", tmp_path / "shared")
    monkeypatch.setenv("METAV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("METAV_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    return tmp_path


def test_missing_data_is_one_sentence_with_three_ways(nowhere):
    with pytest.raises(StorageError, match=r"expected FashionMNIST in .*, got none") as caught:
        fashion_data.fashion_mnist("train", 10)
    for way in ("apt-get install dataset-fashion-mnist", "METAV_DATA", "torchvision"):
        assert way in str(caught.value)


def test_a_folder_that_is_given_is_used(nowhere, monkeypatch):
    monkeypatch.setattr(
        fashion_data, "FILES", {"train": ("a-images", "a-labels", 3), "test": ("b-images", "b-labels", 2)}
    )
    for images, labels, count in fashion_data.FILES.values():
        write_idx(nowhere / images, np.full((count, 28, 28), 255, dtype=np.uint8))
        write_idx(nowhere / labels, np.arange(count, dtype=np.uint8))
    monkeypatch.setenv("METAV_DATA", str(nowhere))
    x, y = fashion_data.fashion_mnist("train", 2)
    assert x.shape == (2, 1, 28, 28)
    assert (x == 1).all()
    assert len(set(y.tolist())) == 2


def test_components_are_the_same_whatever_was_drawn_before():
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    z = torch.randn(5, LATENT, generator=torch.Generator().manual_seed(1))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(fashion_open.components(10, images)(z))
    assert torch.equal(*found)
