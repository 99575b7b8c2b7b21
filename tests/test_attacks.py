"""IPGuard, DeepFoolFP and ConferAE against slow literal loops, one point and one torch optimiser at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

import tiny
from metav.schemes import conferae
from metav.schemes.conferae import ConferAE, conferrable_loss
from metav.schemes.deepfool import DeepFoolFP, deepfool
from metav.schemes.ipguard import IPGuard, boundary_loss, scale
from metav.schemes.points import Rows
from metav.verification import query

LOW, HIGH = tiny.IMAGES.low, tiny.IMAGES.high


@pytest.fixture
def ensemble():
    return tiny.classifiers()


class Counting(nn.Module):
    """A model that counts how often it is asked, and for how many inputs."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, []

    def logits(self, x):
        self.asked.append(len(x))
        return self.model.logits(x)

    def forward(self, x):
        return self.logits(x).softmax(-1)


# -- Adam for many points ------------------------------------------------------------------------------------------


def test_rows_that_all_move_are_moved_by_adam():
    start, slopes = torch.randn(5, 2, 3), torch.randn(20, 5, 2, 3)
    rows, theirs = Rows(start, 0.01), start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([theirs], 0.01)
    for slope in slopes:
        rows.step(torch.arange(5), slope)
        theirs.grad = slope
        optimiser.step()
    assert torch.allclose(rows.x, theirs, atol=1e-6)
    assert (rows.x - start).abs().min() > 0


def test_each_row_has_its_own_steps():
    start, slopes = torch.randn(4, 3), torch.randn(12, 4, 3)
    rows = Rows(start, 0.01)
    theirs = [row.clone().requires_grad_(True) for row in start]
    optimisers = [torch.optim.Adam([row], 0.01) for row in theirs]
    for number, slope in enumerate(slopes):
        moving = [row for row in range(4) if number % (row + 1) == 0]
        rows.step(torch.tensor(moving), slope[moving])
        for row in moving:
            theirs[row].grad = slope[row]
            optimisers[row].step()
    assert torch.allclose(rows.x, torch.stack(theirs), atol=1e-6)


# -- IPGuard -------------------------------------------------------------------------------------------------------


def literal_loss(z: Tensor, i: int, j: int, k: float) -> Tensor:
    others = [z[t] for t in range(len(z)) if t not in (i, j)]
    return relu(z[i] - z[j] + k) + (relu(torch.stack(others).max() - z[i]) if others else 0)


def literal_ipguard(model, x: Tensor, i: int, j: int, k: float, lr: float, steps: int) -> Tensor:
    x = x.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr)
    for _ in range(steps):
        loss = literal_loss(model.logits(x[None])[0], i, j, k)
        if loss == 0:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        x.data.clamp_(LOW, HIGH)
    return x.detach()


def pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    i = z.argmax(1)
    return i, (i + 1 + torch.arange(len(z)) % (z.shape[1] - 1)) % z.shape[1]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_boundary_loss_is_the_formula_on_logits_of_any_level(classes):
    """Also where all logits are far below 0, which a 0 in place of an excluded logit would exceed."""
    model = tiny.Linear(torch.randn(6, classes), torch.full((classes,), -30.0))
    x = torch.randn(50, 6)
    i, j = pairs(model.logits(x).roll(1, 0))  # not only the model's own classes as i
    found = boundary_loss(model, x, i, j, 0.5)
    expected = [literal_loss(z, a, b, 0.5) for z, a, b in zip(model.logits(x), i.tolist(), j.tolist(), strict=True)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_points_are_those_of_one_loop_and_one_optimiser_each(classes):
    ensemble = tiny.classifiers(classes)
    x0 = ensemble.data[:12]
    i, j = pairs(query(ensemble.target, x0))
    x, losses = IPGuard(steps=60, lr=0.005).move(ensemble, x0, i, j, k=1.0)
    expected = [
        literal_ipguard(ensemble.target, *point, k=1.0, lr=0.005 * (HIGH - LOW), steps=60)
        for point in zip(x0, i.tolist(), j.tolist(), strict=True)
    ]
    assert torch.allclose(x, torch.stack(expected), atol=2e-4)
    assert (losses == 0).sum() > 0  # some stopped early
    assert (x - x0).abs().max() > 0.1


def test_a_loss_of_zero_means_both_margins(ensemble):
    x0 = ensemble.data[:30]
    i, j = pairs(query(ensemble.target, x0))
    x, losses = IPGuard(steps=300, lr=0.005).move(ensemble, x0, i, j, k=0.7)
    done = losses == 0
    assert done.sum() > 20
    for z, a, b in zip(ensemble.target.logits(x[done]), i[done].tolist(), j[done].tolist(), strict=True):
        others = [z[t] for t in range(4) if t not in (a, b)]
        assert z[b] - z[a] >= 0.7 - 1e-4
        assert z[a] >= max(others) - 1e-4


@pytest.mark.parametrize("other", ["random", "least"])
def test_the_other_class_is_never_the_own_one(ensemble, other):
    """Not even where all classes are equally likely."""
    target = tiny.Linear(torch.randn(192, 4, generator=torch.Generator().manual_seed(1)))
    data = torch.cat([ensemble.data, torch.zeros(40, 3, 8, 8)])
    seen = []

    class Watched(IPGuard):
        def move(self, ensemble, x, i, j, k):
            seen.append((x, i, j))
            return x, i

    Watched(other=other).construct(replace(ensemble, target=target, data=data), queries=len(data), seed=0)
    x, i, j = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert len(x) == len(data)
    z = target.logits(x)
    assert (z.gather(1, i[:, None])[:, 0] == z.amax(1)).all()
    assert (i != j).all()
    assert set(j.tolist()) == {0, 1, 2, 3}
    least = z.gather(1, j[:, None])[:, 0] == z.amin(1)
    assert least.all() if other == "least" else not least.all()


def test_the_margin_does_not_depend_on_what_probabilities_cannot_tell(ensemble):
    z = ensemble.target.logits(ensemble.data)
    assert scale(z) == pytest.approx(z.sub(z.mean(1, keepdim=True)).flatten().std().item())
    assert scale(z + torch.randn(len(z), 1, generator=torch.Generator().manual_seed(0))) == pytest.approx(scale(z))
    assert scale(z.log_softmax(1)) == pytest.approx(scale(z), rel=1e-5)


def test_all_points_advance_together(ensemble):
    target = Counting(ensemble.target)
    IPGuard(steps=15).construct(replace(ensemble, target=target), queries=10, seed=0)
    assert len(target.asked) < 15 + 6
    target = Counting(ensemble.target)
    DeepFoolFP(steps=15).construct(replace(ensemble, target=target), queries=10, seed=0)
    assert len(target.asked) < 15 + 8


@pytest.mark.parametrize("scheme", [IPGuard(steps=5), DeepFoolFP(), ConferAE(steps=2)])
def test_inputs_keep_their_own_box(ensemble, scheme):
    """[-1, 1] here: small changes leave negative inputs negative."""
    x = scheme.construct(ensemble, queries=10, seed=0).queries
    far = torch.cdist(x.flatten(1), ensemble.data.flatten(1), p=torch.inf).amin(1)
    assert (far < 0.3).all()
    assert (x.flatten(1).amin(1) < -0.5).all()


# -- DeepFool ------------------------------------------------------------------------------------------------------


def literal_deepfool(model, x0: Tensor, steps: int, candidates: int) -> Tensor:
    order = model.logits(x0[None])[0].argsort(descending=True)[:candidates].tolist()
    own, total, x = order[0], torch.zeros_like(x0), x0
    for _ in range(steps):
        at = x.clone().requires_grad_(True)
        z = model.logits(at[None])[0]
        if int(z.argmax()) != own:
            break
        slopes = {k: torch.autograd.grad(z[k], at, retain_graph=True)[0] for k in order}
        w = {k: slopes[k] - slopes[own] for k in order[1:]}
        f = {k: (z[k] - z[own]).abs().item() for k in w}
        nearest = min(w, key=lambda k: f[k] / w[k].norm().item())
        total = total + (f[nearest] + 1e-4) / w[nearest].norm().item() ** 2 * w[nearest]
        x = (x0 + 1.02 * total).clamp(LOW, HIGH)
    return x


@pytest.mark.parametrize(("steps", "candidates"), [(50, 10), (50, 2), (1, 10)])
def test_deepfool_is_that_of_one_image_at_a_time(ensemble, steps, candidates):
    x0 = ensemble.data[:40]
    x, over = deepfool(ensemble.target, x0, steps, candidates, 0.02, tiny.IMAGES)
    expected = torch.stack([literal_deepfool(ensemble.target, each, steps, candidates) for each in x0])
    assert torch.allclose(x, expected, atol=1e-4)
    changed = query(ensemble.target, expected).argmax(1) != query(ensemble.target, x0).argmax(1)
    assert torch.equal(over, changed)
    assert over.all() == (steps == 50)


@pytest.mark.filterwarnings("ignore")  # foolbox's own
def test_deepfool_agrees_with_foolbox(ensemble):
    import foolbox

    target, x0 = ensemble.target, ensemble.data[:60]
    x, over = deepfool(target, x0, 50, 10, 0.02, tiny.IMAGES)
    own = query(target, x0).argmax(1)
    attacked = foolbox.PyTorchModel(tiny.frozen(target.net), bounds=(LOW, HIGH), device="cpu")
    expected = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02).run(attacked, x0, own)
    assert torch.equal(query(target, x).argmax(1), query(target, expected).argmax(1))
    assert over.all()
    norms, theirs = ((each - x0).flatten(1).norm(dim=1) for each in (x, expected))
    # within 1 %; foolbox adds its 1e-4 to the distance to the boundary, not to the difference of logits
    assert torch.allclose(norms, theirs, rtol=0.01, atol=1e-4)


def test_the_least_perturbed_definite_examples_are_kept(ensemble):
    def gaps(x):
        first, second = query(ensemble.target, x).topk(2).values.unbind(1)
        return first - second

    x, over = deepfool(ensemble.target, ensemble.data, 50, 10, 0.02, tiny.IMAGES)
    norms = (x - ensemble.data).flatten(1).norm(dim=1)
    level = gaps(x)[over].median().item()
    for definite in (0.0, level):
        fit = over & (gaps(x) >= definite)
        expected = x[fit][norms[fit].argsort()[:15]]
        made = DeepFoolFP(pool=8, definite=definite).construct(ensemble, queries=15, seed=0)
        assert torch.cdist(made.queries.flatten(1), expected.flatten(1), p=torch.inf).amin(1).max() < 1e-3
        assert gaps(made.queries).min() >= definite
        assert torch.equal(made.scorer.labels, query(ensemble.target, made.queries).argmax(1))


def test_deepfool_on_a_model_without_slope_moves_nothing():
    flat = tiny.Linear(torch.zeros(192, 4), torch.tensor([0.0, 1.0, 0.5, 0.0]))
    x0 = tiny.classifiers().data[:5]
    x, over = deepfool(flat, x0, 50, 10, 0.02, tiny.IMAGES)
    assert torch.equal(x, x0)
    assert not over.any()


# -- ConferAE ------------------------------------------------------------------------------------------------------


def softmaxes(models, x: Tensor) -> Tensor:
    return sum(model.logits(x).softmax(1) for model in models) / len(models)


def literal_conferrable_loss(target, x, clean, surrogates, references) -> Tensor:
    p, surr, ref = target.logits(x).softmax(1), softmaxes(surrogates, x), softmaxes(references, x)
    terms = []
    for n in range(len(x)):
        c = int(p[n].argmax())
        transferred = -torch.log(surr[n, c] * (1 - ref[n, c]))
        moved = -(clean[n] * torch.log(p[n])).sum()
        shared = -(p[n] * torch.log(surr[n])).sum()
        terms.append(transferred - moved + shared)
    return torch.stack(terms).mean()


@pytest.fixture(scope="module")
def doubles():
    """Target, two surrogates and two references in double precision, smooth enough for finite differences."""
    noise = torch.Generator().manual_seed(0)
    models = [tiny.Linear(torch.randn(6, 4, generator=noise).double()) for _ in range(5)]
    return models, torch.randn(4, 6, generator=noise).double()


def test_the_conferrable_loss_is_the_formula(doubles):
    (target, *others), x = doubles
    clean = target.logits(x.flip(0)).softmax(1)
    found = conferrable_loss(target, x, clean, others[:2], others[2:])
    assert found.item() == pytest.approx(literal_conferrable_loss(target, x, clean, others[:2], others[2:]).item())


def test_every_term_of_the_conferrable_loss_has_its_gradient(doubles):
    """Finite differences see what changes the loss, whether or not autograd does."""
    (target, *others), x = doubles
    clean = target.logits(x.flip(0)).softmax(1)

    def loss(at):
        return conferrable_loss(target, at, clean, others[:2], others[2:])

    assert torch.autograd.gradcheck(loss, x.clone().requires_grad_(True))

    def slope(surrogates, references):
        at = x.clone().requires_grad_(True)
        return torch.autograd.grad(conferrable_loss(target, at, clean, surrogates, references), at)[0]

    both = slope(others[:2], others[2:])
    assert (both - slope(others[:1], others[2:])).abs().max() > 0.01
    assert (both - slope(others[:2], others[3:])).abs().max() > 0.01


def test_perturbations_are_those_of_a_literal_loop(ensemble):
    scheme = ConferAE(steps=25, lr=0.004, eps=0.05)
    x0, surrogates, references = ensemble.data[:6], ensemble.positives[:3], ensemble.negatives[:3]
    x = scheme.perturb(ensemble, x0, surrogates, references, torch.Generator().manual_seed(4))

    generator = torch.Generator().manual_seed(4)
    delta = torch.zeros_like(x0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], 0.004 * (HIGH - LOW))
    clean = query(ensemble.target, x0)
    for _ in range(25):
        drawn = [scheme._draw(side, generator) for side in (surrogates, references)]
        optimiser.zero_grad()
        literal_conferrable_loss(ensemble.target, x0 + delta, clean, *drawn).backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-0.05 * (HIGH - LOW), 0.05 * (HIGH - LOW))
            delta.copy_((x0 + delta).clamp(LOW, HIGH) - x0)
    assert torch.allclose(x, x0 + delta, atol=1e-4)
    assert (x - x0).abs().max() > 0.05


@pytest.mark.parametrize("keep", [0.05, 0.7, 1.0])
def test_sub_ensembles_are_drawn_with_the_probability_and_never_empty(keep):
    scheme, generator = ConferAE(keep=keep), torch.Generator().manual_seed(0)
    drawn = [scheme._draw("abc", generator) for _ in range(1000)]
    assert min(map(len, drawn)) > 0
    share = keep / (1 - (1 - keep) ** 3)  # given that one is there
    for member in "abc":
        assert sum(member in each for each in drawn) / 1000 == pytest.approx(share, abs=0.05)


def test_sub_ensembles_are_drawn_anew_in_each_step(ensemble):
    sides = [[Counting(model) for model in side[:3]] for side in (ensemble.positives, ensemble.negatives)]
    ConferAE(steps=40).perturb(ensemble, ensemble.data[:2], *sides, torch.Generator().manual_seed(0))
    for model in (*sides[0], *sides[1]):
        assert 15 < len(model.asked) < 40


def test_perturbations_keep_to_eps_and_to_the_box(ensemble):
    scheme = ConferAE(steps=30, lr=0.05, eps=0.1)
    x0 = torch.cat([ensemble.data[:5], ensemble.data[:5].sign()])  # half of them on the border
    x = scheme.perturb(ensemble, x0, ensemble.positives, ensemble.negatives, torch.Generator().manual_seed(0))
    far = (x - x0).abs()
    assert 0.19 < far.max() <= 0.1 * (HIGH - LOW) + 1e-6
    assert x.min() >= LOW
    assert x.max() <= HIGH


def test_starts_are_examples_that_the_target_classifies_right(ensemble):
    made = ConferAE(steps=1, lr=1e-9).construct(ensemble, queries=60, seed=0)
    start = torch.cdist(made.queries.flatten(1), ensemble.data.flatten(1), p=torch.inf).argmin(1)
    assert len(set(start.tolist())) == 60
    assert torch.equal(query(ensemble.target, ensemble.data[start]).argmax(1), ensemble.labels[start])


def test_adversarial_and_conferrable_examples_come_first_and_are_counted(ensemble, monkeypatch):
    """With chosen perturbations, half of the examples put in the place of others, and levels that tiny models reach."""
    monkeypatch.setattr(conferae, "LEVELS", {"conferrable": 0.3, "relaxed": 0.2})
    seen = []

    class Swapping(ConferAE):
        def perturb(self, ensemble, x0, surrogates, references, generator):
            x = torch.cat([x0[:40], x0[40:].roll(1, 0)])
            conferrability = softmaxes(surrogates, x) * (1 - softmaxes(references, x))
            given = query(ensemble.target, x).argmax(1)
            seen.append((x, conferrability[torch.arange(80), given], given != query(ensemble.target, x0).argmax(1)))
            return x

    made = Swapping(pool=2).construct(ensemble, queries=40, seed=0)
    ((x, score, adversarial),) = seen
    best = sorted(range(80), key=lambda n: (-float(adversarial[n]), -float(score[n])))[:40]
    assert torch.equal(made.queries, x[best])
    assert torch.equal(made.scorer.labels, query(ensemble.target, made.queries).argmax(1))
    counts = [int((adversarial & (score >= level)).sum()) for level in (-1, 0.3, 0.2)]
    assert list(made.provenance["candidates"].values()) == [80, *counts]
    assert 40 > counts[0] > counts[2] > counts[1] > 0
