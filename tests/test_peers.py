"""ModelDiff, SAC-m, AKH and LiteGuard against their formulas; thresholds of schemes that come without one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import tiny
from metav import schemes
from metav.engine import seeded
from metav.schemes.akh import AKH
from metav.schemes.liteguard import LiteGuard
from metav.schemes.metav import box
from metav.schemes.modeldiff import ModelDiff
from metav.schemes.points import cutmix
from metav.schemes.sac import SACm
from metav.scorers import Correlation, DecisionDistance, LocalVerifiers
from metav.verification import query, verify


@pytest.fixture
def ensemble():
    return tiny.classifiers()


def rows_of(x: Tensor, data: Tensor) -> Tensor:
    """Which example each of x is; -1 for none."""
    distance, row = torch.cdist(x.flatten(1), data.flatten(1), p=torch.inf).min(1)
    return torch.where(distance == 0, row, -1)


# -- ModelDiff -----------------------------------------------------------------------------------------------------


def cosine_distance(a: Tensor, b: Tensor) -> float:
    return 1 - sum((a * b).tolist()) / math.sqrt(sum((a * a).tolist()) * sum((b * b).tolist()))


def test_the_literal_distance_is_that_of_torch():
    a, b = torch.randn(2, 6)
    assert cosine_distance(a, b) == pytest.approx(1 - cosine_similarity(a, b, dim=0).item(), abs=1e-6)


def test_the_decision_distances_are_a_vector_of_one_for_each_pair():
    answers = torch.randn(14, 2, 3)
    found = DecisionDistance.distances(answers)
    assert found.shape == (7,)
    expected = [cosine_distance(answers[n].flatten(), answers[7 + n].flatten()) for n in range(7)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_rate_is_the_cosine_similarity_of_two_vectors():
    target, suspect = torch.randn(2, 20, 4)
    a, b = DecisionDistance.distances(target), DecisionDistance.distances(suspect)
    expected = sum((a / a.norm() * (b / b.norm())).tolist())
    assert DecisionDistance.of(target).rate(suspect) == pytest.approx(expected, abs=1e-6)
    assert DecisionDistance.of(target).rate(target) == pytest.approx(1, abs=1e-6)
    assert DecisionDistance.of(target).rate(torch.ones(20, 4)) == 0  # a suspect whose answers never change


def test_the_decision_distances_do_not_see_what_cosines_cannot():
    answers = torch.randn(16, 5)
    found = DecisionDistance.distances(answers)
    turn, _ = torch.linalg.qr(torch.randn(5, 5))
    for same in (7.3 * answers, 1e-3 * answers, answers @ turn, answers[:, [3, 1, 0, 4, 2]], -answers):
        assert torch.allclose(DecisionDistance.distances(same), found, atol=1e-5)
    scales = torch.rand(16, 1) + 0.5  # not even another scale for each answer
    assert torch.allclose(DecisionDistance.distances(scales * answers), found, atol=1e-5)
    for other in (answers + 1, answers * torch.arange(5)):
        assert not torch.allclose(DecisionDistance.distances(other), found, atol=0.01)


def test_partners_keep_to_eps_and_to_the_box(ensemble):
    made = ModelDiff(eps=0.05, step=0.02, steps=8).construct(ensemble, queries=20, seed=0)
    x, partners = made.queries.chunk(2)
    assert len(set(rows_of(x, ensemble.data).tolist()) - {-1}) == 20
    assert 0.099 < (partners - x).abs().max() <= 0.05 * 2 + 1e-6
    assert partners.abs().max() <= 1
    assert (x.flatten(1).amin(1) < -0.5).all()
    assert (partners.flatten(1).amin(1) < -0.5).all()  # the box is [-1, 1], not [0, 1]


def literal_partners(model, x: Tensor, partner: Tensor, scheme: ModelDiff, diversity: float) -> Tensor:
    """Projected gradient ascent on sums over single answers."""
    clean = query(model, x)
    for _ in range(scheme.steps):
        partner = partner.clone().requires_grad_(True)
        answers = model(partner)
        n = len(x)
        spread = sum((answers[i] - clean[i]).norm() for i in range(n))
        among = sum((answers[i] - answers[j]).norm() for i in range(n) for j in range(i))
        (slope,) = torch.autograd.grad(spread + diversity * among / (n - 1), partner)
        moved = partner.detach() + 2 * scheme.step * slope.sign()
        partner = torch.max(torch.min(moved, x + 2 * scheme.eps), x - 2 * scheme.eps).clamp(-1, 1)
    return partner


@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_partners_are_those_of_a_literal_ascent_from_random_starts(ensemble, diversity):
    x = ensemble.data[:6]
    scheme = ModelDiff(steps=4, diversity=diversity)
    found = scheme.partners(ensemble, x, torch.Generator().manual_seed(2))
    draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
    low, high = (x - 0.12).clamp(-1, 1), (x + 0.12).clamp(-1, 1)
    start = low + draw * (high - low)
    expected = literal_partners(ensemble.target, x, start, scheme, diversity)
    assert (found - expected).abs().gt(1e-4).float().mean() < 0.01  # where a slope is next to 0 its sign may differ
    answers, before = query(ensemble.target, found), query(ensemble.target, start)
    clean = query(ensemble.target, x)
    assert (answers - clean).norm(dim=1).mean() > (before - clean).norm(dim=1).mean()


# -- SAC-m ---------------------------------------------------------------------------------------------------------


def test_the_correlations_are_symmetric_with_zeros_on_the_diagonal():
    answers = torch.randn(9, 2, 2)
    found = Correlation.distances(answers)
    expected = [[cosine_distance(a.flatten(), b.flatten()) / 2 for b in answers] for a in answers]
    assert torch.allclose(found, torch.tensor(expected, dtype=found.dtype), atol=1e-6)
    assert torch.equal(found, found.mT)
    assert found.diagonal().abs().max() < 1e-12
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_rate_is_the_mean_agreement_of_two_matrices():
    target, suspect = torch.randn(2, 8, 5)
    c = Correlation.of(target)
    difference = Correlation.distances(target) - Correlation.distances(suspect)
    assert c.rate(suspect) == pytest.approx(1 - sum(difference.abs().flatten().tolist()) / 64, abs=1e-6)
    assert c.rate(target) == pytest.approx(1, abs=1e-6)
    assert c.rate(3 * target) == pytest.approx(1, abs=1e-6)


def literal_cutmix(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel by pixel: those in a rectangle, as far as it is in the image, come from the partner."""
    n, channels, height, width = images.shape
    order = torch.randperm(n, generator=generator).tolist()
    draws = torch.rand(n, 3, generator=generator).tolist()
    mixed = torch.empty_like(images)
    for number in range(n):
        area, cy, cx = draws[number]
        h, w = round(height * math.sqrt(1 - area)), round(width * math.sqrt(1 - area))
        top, left = round(cy * height - h / 2), round(cx * width - w / 2)
        for channel in range(channels):
            for y in range(height):
                for x in range(width):
                    inside = top <= y < top + h and left <= x < left + w
                    source = order[number] if inside else number
                    mixed[number, channel, y, x] = images[source, channel, y, x]
    return mixed


def test_cutmix_is_that_of_a_literal_loop(ensemble):
    images, before = ensemble.data[:40], ensemble.data[:40].clone()
    found = cutmix(images, torch.Generator().manual_seed(5))
    assert torch.equal(found, literal_cutmix(images, torch.Generator().manual_seed(5)))
    assert torch.equal(images, before)
    changed = (found != images).any(1).float().mean((1, 2))
    assert 0.2 < changed.mean() < 0.6  # a half, less what is cut off at the border


def test_the_queries_of_sac_are_mixtures(ensemble):
    made = SACm().construct(ensemble, queries=30, seed=0)
    assert (rows_of(made.queries, ensemble.data) == -1).sum() > 20
    pixels = (made.queries[:, None] == ensemble.data[None]).all(2)  # (queries, examples, height, width)
    assert pixels.any(1).all()  # each is that of some example
    assert (pixels.flatten(2).any(2).sum(1) <= 2).all()  # of two at most


# -- AKH -----------------------------------------------------------------------------------------------------------


def test_akh_asks_only_what_the_target_gets_wrong(ensemble):
    wrong = query(ensemble.target, ensemble.data).argmax(1) != ensemble.labels
    made = AKH().construct(ensemble, queries=int(wrong.sum()), seed=0)
    assert sorted(rows_of(made.queries, ensemble.data).tolist()) == wrong.nonzero()[:, 0].tolist()
    assert made.provenance["misclassified"] == wrong.sum()
    assert torch.equal(made.scorer.labels, query(ensemble.target, made.queries).argmax(1))
    few = [AKH().construct(ensemble, queries=5, seed=seed) for seed in (0, 1)]
    assert all(wrong[rows_of(each.queries, ensemble.data)].all() for each in few)
    assert not torch.equal(few[0].queries, few[1].queries)


def test_what_akh_tops_up_is_counted(ensemble):
    truth = query(ensemble.target, ensemble.data).argmax(1)
    truth[[4, 50, 99]] = (truth[[4, 50, 99]] + 1) % 4
    made = AKH().construct(replace(ensemble, labels=truth), queries=20, seed=0)
    assert made.provenance["misclassified"] == 3
    assert sorted(rows_of(made.queries[:3], ensemble.data).tolist()) == [4, 50, 99]
    assert (rows_of(made.queries[3:], ensemble.data) == -1).sum() > 10


def test_the_recorded_class_is_the_one_that_is_answered(ensemble):
    """Not that of logits, which differ where probabilities round to the same number."""

    class Tied(nn.Module):
        def logits(self, x):
            z = 1e-3 * x.flatten(1)[:, :4]
            return torch.cat([z[:, :1], z[:, :1] + 1e-7 * x.flatten(1)[:, 9:10], z[:, 2:] - 0.1], 1)

        def forward(self, x):
            return self.logits(x).softmax(-1)

    tied = replace(ensemble, target=Tied())
    assert (Tied().logits(tied.data).log_softmax(1).argmax(1) != Tied()(tied.data).argmax(1)).any()
    truth = torch.full_like(ensemble.labels, 2)
    truth[0] = 3
    assert verify(AKH().construct(replace(tied, labels=truth), queries=120, seed=0), Tied()).rate == 1


# -- LiteGuard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classifiers", "generators"])
def test_liteguard_is_a_literal_loop_for_each_pair_alone(kind):
    ensemble = getattr(tiny, kind)()
    made = LiteGuard(iterations=30, lr=0.01).construct(ensemble, queries=3, seed=6)

    generator = torch.Generator().manual_seed(6)
    w = torch.randn(3, *ensemble.spec.input_shape, generator=generator)
    with seeded(6):
        fresh = LocalVerifiers(3, math.prod(ensemble.spec.output_shape))
    draws = [
        [int(torch.randint(len(side), (1,), generator=generator)) for side in (ensemble.negatives, ensemble.positives)]
        for _ in range(30)
    ]
    pairs = []
    for m in range(3):
        query_m = w[m].clone().requires_grad_(True)
        weight, bias = (each.detach()[m].clone().requires_grad_(True) for each in fresh.parameters())
        optimiser = torch.optim.Adam([query_m, weight, bias], 0.01)
        for negative, positive in draws:
            v = [
                torch.sigmoid((model(box(query_m[None], ensemble.spec)).flatten() * weight).sum() + bias)
                for model in (ensemble.target, ensemble.positives[positive], ensemble.negatives[negative])
            ]
            loss = -0.5 * torch.log(v[0]) - torch.log(v[1]) - 1.5 * torch.log(1 - v[2])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        pairs.append((query_m, weight, bias))
    for m, (query_m, weight, bias) in enumerate(pairs):
        assert torch.allclose(made.queries[m], box(query_m.detach(), ensemble.spec), atol=1e-4)
        assert torch.allclose(made.scorer.weight[m], weight, atol=1e-4)
        assert torch.allclose(made.scorer.bias[m], bias, atol=1e-4)


def test_the_loss_of_a_pair_has_no_slope_at_another(ensemble):
    w = torch.randn(5, *ensemble.spec.input_shape, requires_grad=True)
    verifiers = LocalVerifiers(5, 4)
    for m in range(5):
        logits = verifiers(ensemble.target(box(w, ensemble.spec)).flatten(1)[None])
        slopes = torch.autograd.grad(logits[:, m].sum(), [w, *verifiers.parameters()])
        for slope in slopes:
            assert slope.flatten(1 if slope.dim() > 1 else 0).reshape(5, -1).abs().amax(1).nonzero().tolist() == [[m]]


def test_the_rate_of_liteguard_is_the_mean_of_its_verifiers():
    verifiers, outputs = LocalVerifiers(6, 4), torch.randn(6, 2, 2)
    v = [
        1 / (1 + math.exp(-sum((outputs[m].flatten() * verifiers.weight[m]).tolist()) - verifiers.bias[m].item()))
        for m in range(6)
    ]
    assert verifiers.rate(outputs) == pytest.approx(sum(v) / 6, abs=1e-6)


# -- thresholds ----------------------------------------------------------------------------------------------------

CALIBRATED = ["ipguard(steps=5)", "deepfoolfp", "conferae(steps=3,lr=0.02)", "modeldiff(steps=5)", "sac-m", "akh"]


@pytest.mark.parametrize("text", CALIBRATED)
def test_thresholds_are_the_least_that_spare_the_negatives_of_the_construction(ensemble, text):
    made = schemes.get(text).construct(ensemble, queries=16, seed=1)
    assert made.threshold == max(verify(made, model).rate for model in ensemble.negatives) + 1e-5
    assert not any(verify(made, model).derived for model in ensemble.negatives)
    if not schemes.get(text).needs.suspects:  # what is made does not depend on them, but the threshold does
        other = replace(ensemble, negatives=ensemble.positives)
        again = schemes.get(text).construct(other, queries=16, seed=1)
        assert torch.equal(again.queries, made.queries)
        assert again.threshold != made.threshold
