"""Side by side or one by one: the same weights."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from metav import training
from metav.checkpoint import Checkpoint
from metav.engine import seeded
from metav.storage import load_tensors, save_tensors
from metav.suspects import FilterPruning, FineTuning

ERROR = training.Objective(loss=training.absolute_error, imitation=partial(training.anneal, training.absolute_error))
TARGET_TO_TRAIN = {
    "from scratch on owner's and public data": [
        "M(own,2ep,lr=0.003,batch=64,seed=1)",
        "M(public,2ep,lr=0.003,batch=64,seed=2)",
    ],
    "students": [
        "target>distill(public,2ep,student=M,lr=0.003,batch=64,seed=1)",
        "target>distill(public,2ep,student=M,lr=0.003,batch=64,seed=2)",
    ],
    "last layer": [
        "target>rtll(public,2ep,lr=0.003,batch=64,seed=1)",
        "target>rtll(public,2ep,lr=0.003,batch=64,seed=2)",
    ],
    "all layers": [
        "target>rtal(public,2ep,lr=0.003,batch=50,seed=1)",
        "target>rtal(public,2ep,lr=0.003,batch=50,seed=2)",
    ],
}


def drafts(zoo, lineages):
    return [draft(zoo, text) for text in lineages]


def draft(zoo, text):
    lineage = zoo.scenario.lineage(text)
    parent = None
    if lineage.parent is not None:
        parent = zoo.load(lineage.parent) if zoo.has(lineage.parent) else draft(zoo, lineage.parent).model
    return lineage.step.draft(parent, zoo.scenario.fresh)


@pytest.mark.parametrize("lineages", TARGET_TO_TRAIN.values(), ids=TARGET_TO_TRAIN)
def test_side_by_side_equals_one_by_one(smoke_zoo, lineages):
    together, alone = drafts(smoke_zoo, lineages), drafts(smoke_zoo, lineages)
    smoke_zoo.scenario.fit(together, smoke_zoo.scenario.parts)
    for draft in alone:
        smoke_zoo.scenario.fit([draft], smoke_zoo.scenario.parts)
    for left, right in zip(together, alone, strict=True):
        for name, value in left.model.state_dict().items():
            assert torch.allclose(value, right.model.state_dict()[name], atol=2e-5), name


def test_pruned_weights_stay_pruned_and_the_others_move(smoke_zoo):
    lineages = [f"target>wp({r})>ftal(public,1ep,lr=0.001,batch=64,seed=1)" for r in (0.3, 0.7)]
    for pair in (drafts(smoke_zoo, lineages), drafts(smoke_zoo, lineages[:1])):
        before = [{name: value.clone() for name, value in d.model.named_parameters()} for d in pair]
        smoke_zoo.scenario.fit(pair, smoke_zoo.scenario.parts)
        for draft, old in zip(pair, before, strict=True):
            for name, new in draft.model.named_parameters():
                if name.endswith("weight"):
                    assert (old[name] == 0).any()
                    assert (new[old[name] == 0] == 0).all()
                    assert (new != old[name])[
                        old[name] != 0
                    ].float().mean() > 0.1  # the others have no gradient: units that never fire


def test_last_layer_training_leaves_the_rest_alone(smoke_zoo):
    pair = drafts(smoke_zoo, TARGET_TO_TRAIN["last layer"])
    smoke_zoo.scenario.fit(pair, smoke_zoo.scenario.parts)
    target = smoke_zoo.load("target").state_dict()
    for draft in pair:
        found = draft.model.state_dict()
        assert torch.equal(found["0.weight"], target["0.weight"])
        assert not torch.equal(found["2.weight"], target["2.weight"])
        assert not any(p.requires_grad for p in draft.model.parameters())
        assert not draft.model.training


def test_annealing_goes_from_teacher_to_labels():
    outputs, teacher, labels = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[11.0]])
    found = [
        training.anneal(training.absolute_error, outputs, teacher, labels, progress).item() for progress in (0, 0.25, 1)
    ]
    assert found == [2, 4, 10]


def test_a_students_first_step_is_towards_the_teacher_and_the_last_ones_towards_the_labels(smoke_zoo):
    scenario = smoke_zoo.scenario
    with seeded(0):
        teacher = nn.Sequential(nn.Linear(31, 1)).requires_grad_(False)
    public = scenario.parts["public"]
    taught = training.Part(x=public.x, y=teacher(public.x))

    def trained(epochs: int, teacher: nn.Module | None, part: training.Part) -> nn.Module:
        draft = drafts(smoke_zoo, [f"S(public,{epochs}ep,lr=0.003,batch=2350,seed=1)"])[0]
        draft.teacher = teacher
        scenario.fit([draft], {"public": part})
        return draft.model

    student, follower = trained(1, teacher, public), trained(1, None, taught)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), follower.parameters(), strict=True))
    student, alone = trained(60, teacher, public), trained(60, None, public)
    errors = [(model(public.x) - public.y).abs().mean() for model in (student, alone, teacher)]
    assert errors[1] < errors[0] < errors[2]


def convolutional() -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 2),
        )


def images() -> dict[str, training.Part]:
    with seeded(1):
        return {"public": training.Part(x=torch.rand(32, 1, 8, 8), y=torch.rand(32, 2))}


@pytest.mark.parametrize("last", [0, 1, 2])
def test_convolutional_nets_are_tuned_too_and_frozen_statistics_stay(last):
    step = FineTuning(data="public", epochs=2, lr=0.01, batch=8, seed=0, last=last)
    parent = convolutional().eval().requires_grad_(False)
    pruned = FilterPruning(ratio=0.5).draft(parent, None).model
    draft = step.draft(pruned, None)
    before = {name: value.clone() for name, value in draft.model.state_dict().items()}
    training.fit([draft], images(), ERROR)
    after = draft.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(draft.trainable) <= moved
    assert ("1.running_mean" in moved) == (last == 0)
    assert (after["0.weight"][before["0.weight"] == 0] == 0).all()
    assert not draft.model.training


def test_drafts_of_other_rates_shapes_or_layers_are_not_stacked():
    part = {"public": training.Part(x=torch.rand(32, 5), y=torch.rand(32, 1))}

    def made(lr=0.01, batch=8, width=4, bias=True, last=0):
        with seeded(0):
            model = nn.Sequential(nn.Linear(5, width, bias=bias), nn.ReLU(), nn.Linear(width, 1))
        return FineTuning(data="public", epochs=2, lr=lr, batch=batch, seed=0, last=last).draft(model, None)

    for other in ({"lr": 0.1}, {"batch": 4}, {"width": 3}, {"bias": False}, {"last": 1}):
        pair, alone = [made(), made(**other)], made(**other)
        training.fit(pair, part, ERROR)
        training.fit([alone], part, ERROR)
        expected = alone.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in pair[1].model.state_dict().items()), other


# -- objectives and checkpoints -----------------------------------------------------------------------------------


def test_hintons_loss_is_a_cross_entropy_and_a_scaled_divergence():
    with seeded(0):
        outputs, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.randint(7, (5,))
    hard = cross_entropy(outputs, labels, reduction="none")
    # the cross-entropy with soft targets is the divergence from the teacher plus the teacher's entropy
    p = (teacher / 4).softmax(1)
    soft = kl_div((outputs / 4).log_softmax(1), p, reduction="none").sum(1) - (p * p.log()).sum(1)
    found = training.soften(4.0, 0.9, outputs, teacher, labels, 0.3)
    torch.testing.assert_close(found, 0.1 * hard + 0.9 * 16 * soft)
    torch.testing.assert_close(training.soften(4.0, 0.0, outputs, teacher, labels, 0.3), hard)


def test_the_slanted_rate_rises_for_a_tenth_and_falls_to_nothing():
    assert [round(training.slanted(p), 6) for p in (0, 0.05, 0.1, 0.55, 1)] == [0, 0.5, 1, 0.5, 0]


def dropping() -> nn.Module:
    """With what a checkpoint must bring back: batch statistics, and units that are dropped at random."""
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 2)
        )


class KilledError(Exception):
    pass


def test_a_training_that_is_killed_ends_in_the_same_weights(tmp_path, monkeypatch):
    objective = training.Objective(loss=ERROR.loss, imitation=ERROR.imitation, slanted=True)

    def trained(checkpoint: Checkpoint | None) -> dict[str, torch.Tensor]:
        step = FineTuning(data="public", epochs=4, lr=0.01, batch=8, seed=3, last=0)
        draft = step.draft(dropping(), None)
        draft.checkpoint = checkpoint
        training.fit([draft], images(), objective)
        return draft.model.state_dict()

    whole = trained(None)
    path = tmp_path / "a.checkpoint"
    save, saved, steps = Checkpoint.save, [], -(-len(images()["public"].x) // 8)
    assert steps > 1

    def fail_in_the_third_epoch(self: Checkpoint, live, done: int) -> None:
        save(self, live, done)
        saved.append(done)
        if done == 2 * steps + 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", fail_in_the_third_epoch)
        with pytest.raises(KilledError):
            trained(Checkpoint(path, "a", every=0))
    monkeypatch.setattr(Checkpoint, "save", lambda self, live, done: saved.append(done))
    again = Checkpoint(path, "a")
    resumed = trained(again)
    assert again.spent > 0  # seconds of the run that was killed
    assert saved == list(range(1, 4 * steps + 1))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_used(tmp_path):
    path = tmp_path / "a.checkpoint"
    live = {"x": torch.ones(3)}
    Checkpoint(path, "a", every=0).save(live, 2)
    assert Checkpoint(path, "a").resume({"x": torch.zeros(3)}) == 2
    assert Checkpoint(path, "b").resume({"x": torch.zeros(3)}) == 0
    assert Checkpoint(path, "a").resume({"x": torch.zeros(4)}) == 0
    save_tensors(tmp_path / "older", live, {"identity": "a", "epochs": 2})
    assert Checkpoint(tmp_path / "older", "a").resume({"x": torch.zeros(3)}) == 0
    path.write_bytes(path.read_bytes()[:-4])
    fresh = {"x": torch.zeros(3)}
    assert Checkpoint(path, "a").resume(fresh) == 0
    assert (fresh["x"] == 0).all()
    Checkpoint(path, "a").clear()
    assert not path.exists()
    assert Checkpoint(path, "a").resume(fresh) == 0


def test_seconds_of_earlier_runs_add_up(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("metav.checkpoint.time.monotonic", lambda: float(next(clock)))
    live = {"x": torch.ones(3)}
    spent = []
    for done in (1, 2):
        checkpoint = Checkpoint(tmp_path / "a", "a", every=0)
        checkpoint.resume(live)
        spent.append(checkpoint.spent)
        checkpoint.save(live, done)
    last = Checkpoint(tmp_path / "a", "a")
    last.resume(live)
    assert 0 == spent[0] < spent[1] < last.spent


def test_models_side_by_side_are_taught_within_the_range_of_their_own_inputs():
    inputs = torch.stack([torch.linspace(0, 1, 8)[:, None], torch.linspace(5, 9, 8)[:, None]])
    labels = torch.zeros(2, 8, 1)
    both = training.adverse(lambda x: x, training.squared_error, inputs, labels, 3.0, axis=1)
    alone = [
        training.adverse(lambda x: x, training.squared_error, x, y, 3.0) for x, y in zip(inputs, labels, strict=True)
    ]
    assert torch.equal(both, torch.stack(alone))


def test_a_checkpoint_waits_for_its_time(tmp_path):
    path = tmp_path / "a.checkpoint"
    checkpoint = Checkpoint(path, "a", every=3600)
    checkpoint.resume({"x": torch.ones(1)})
    checkpoint.save({"x": torch.ones(1)}, 1)
    assert not path.exists()


LONG = """
import sys
from pathlib import Path
import torch
from metav import scenarios
from metav.checkpoint import Checkpoint
from metav.engine import one_thread
from metav.storage import save_tensors

scenario = scenarios.load("fashion", "smoke")
draft = scenario.lineage("XL(own,12ep,lr=0.001,batch=32,seed=7)").step.draft(None, scenario.fresh)
draft.checkpoint = Checkpoint(Path(sys.argv[1]), "x", every=0)
with one_thread():
    scenario.fit([draft], scenario.parts)
save_tensors(Path(sys.argv[2]), draft.model.state_dict(), {})
"""


def test_a_gan_whose_process_is_killed_goes_on_from_its_checkpoint_to_the_same_bytes(tmp_path):
    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", LONG, str(tmp_path / f"{name}.part"), str(tmp_path / name)])

    def epochs() -> int:
        return load_tensors(tmp_path / "b.part", "")[1]["done"] if (tmp_path / "b.part").exists() else 0

    whole, killed = start("a"), start("b")
    with whole:
        with killed:
            while epochs() < 3:
                assert killed.poll() is None
                time.sleep(0.01)
            killed.send_signal(signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL
        assert 3 <= epochs() < 12
        assert start("b").wait() == 0
    assert whole.returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_last_batch_of_one_example_joins_the_one_before():
    values = torch.arange(9)
    for size, wanted in ((4, [4, 5]), (8, [9]), (5, [5, 4]), (1, 9 * [1]), (9, [9]), (20, [9])):
        parts = training.mini_batches(values, size, 0)
        assert [len(part) for part in parts] == wanted
        assert torch.equal(torch.cat(parts), values)
    assert [part.shape for part in training.mini_batches(torch.zeros(2, 5), 2, 1)] == [(2, 2), (2, 3)]


def test_statistics_without_parameters_stay_before_all_that_learns():
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Dropout(), nn.Linear(4, 2))
        net.append(nn.BatchNorm1d(2, affine=False))
    net[0].requires_grad_(False)
    training.train_mode(net)
    assert [module.training for module in net] == [False, False, True, True, True]
    net[0].requires_grad_(True)
    training.train_mode(net)
    assert all(module.training for module in net)
