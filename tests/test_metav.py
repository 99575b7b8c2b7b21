"""MetaV against a literal reading of Algorithm 1, and its options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from metav import benchmark, protocols, schemes
from metav.errors import UsageError
from metav.schemes import Ensemble, MetaV
from metav.schemes.metav import box, unbox
from metav.spec import Spec
from metav.verification import query, verify

SPEC = Spec(input_shape=(6,), output_shape=(2,), low=-1.0, high=1.0, output="regression")


def net(seed: int, wide: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, 2)).eval().requires_grad_(False)


def near(model: nn.Module, seed: int) -> nn.Module:
    other = net(seed)
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        mine.data = theirs + 0.02 * torch.randn(theirs.shape)
    return other


@pytest.fixture
def tiny() -> Ensemble:
    target = net(0)
    return Ensemble(
        target=target,
        positives=[near(target, s) for s in range(1, 6)],
        negatives=[net(s) for s in range(11, 16)],
        spec=SPEC,
        data=torch.rand(40, 6) * 2 - 1,
    )


def algorithm_1(ensemble: Ensemble, queries: int, iterations: int, seed: int):
    """The paper's Algorithm 1, line by line, with plain autograd and two optimisers, for inputs in [-1, 1]."""
    (d_in,), (d_out,) = ensemble.spec.input_shape, ensemble.spec.output_shape
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    w = torch.randn(queries, d_in, generator=generator)  # line 3
    hidden, last = nn.Linear(queries * d_out, 100), nn.Linear(100, 2)  # line 4
    w.requires_grad_(True)
    opt_w = torch.optim.Adam([w], 0.001)  # line 5
    opt_theta = torch.optim.Adam([*hidden.parameters(), *last.parameters()], 0.001)

    def verifier(model):
        outputs = [model(torch.tanh(w[i])[None])[0] for i in range(queries)]  # line 8
        return torch.softmax(last(torch.relu(hidden(torch.cat(outputs)))), dim=0)  # (p-, p+)

    for _ in range(iterations):  # line 6
        m_minus = ensemble.negatives[int(torch.randint(len(ensemble.negatives), (1,), generator=generator))]
        m_plus = ensemble.positives[int(torch.randint(len(ensemble.positives), (1,), generator=generator))]
        loss = -(  # line 9, to be minimised
            torch.log(verifier(m_plus)[1]) + torch.log(verifier(ensemble.target)[1]) + torch.log(verifier(m_minus)[0])
        )
        opt_w.zero_grad()
        opt_theta.zero_grad()
        loss.backward()
        opt_w.step()  # line 10
        opt_theta.step()  # line 11
    return torch.tanh(w).detach(), verifier  # lines 13 to 15


@pytest.fixture(params=["tiny", "warfarin"])
def any_ensemble(request, tiny) -> Ensemble:
    """Small nets, and the real zoo: doses of tens of mg, students of other shapes."""
    if request.param == "tiny":
        return tiny
    zoo = request.getfixturevalue("smoke_zoo")
    return benchmark.ensemble(zoo, protocols.split(zoo.scenario.suspects, 0)[0])


def test_equals_the_literal_algorithm_over_20_iterations(any_ensemble):
    made = MetaV(iterations=20).construct(any_ensemble, queries=7, seed=5)
    x, verifier = algorithm_1(any_ensemble, queries=7, iterations=20, seed=5)
    assert torch.allclose(made.queries, x, atol=1e-5, rtol=0)
    for model in (any_ensemble.target, *any_ensemble.positives, *any_ensemble.negatives):
        assert verify(made, model).rate == pytest.approx(verifier(model)[1].item(), abs=1e-5)


def test_learns_to_tell_apart_what_it_was_shown(tiny):
    made = MetaV(iterations=400).construct(tiny, queries=20, seed=0)
    assert verify(made, tiny.target).derived
    assert all(verify(made, model).derived for model in tiny.positives)
    assert not any(verify(made, model).derived for model in tiny.negatives)


@pytest.mark.parametrize(
    "options",
    ["", "start=data", "standardise=robust", "batch=3", "depth=0", "depth=3,width=9", "query_lr=0.1"],
)
def test_options_keep_queries_in_the_box_and_results_repeatable(tiny, options):
    scheme = schemes.get(f"metav({options},iterations=15)" if options else "metav(iterations=15)")
    state = torch.random.get_rng_state()
    one, two = (scheme.construct(tiny, queries=4, seed=3) for _ in range(2))
    assert one.digest == two.digest
    assert one.digest != scheme.construct(tiny, queries=4, seed=4).digest
    assert one.queries.abs().max() <= 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None and not p.requires_grad for p in tiny.target.parameters())


def test_robust_standardisation_is_median_and_quartiles_then_clipped(tiny):
    made = MetaV(iterations=1, standardise="robust", clip=2.0, query_lr=1e-12).construct(tiny, queries=4, seed=3)
    models = (*tiny.negatives, tiny.target, *tiny.positives)
    answers = torch.stack([query(model, made.queries).flatten() for model in models])
    assert torch.allclose(made.scorer.centre, answers.median(0).values, atol=1e-5)
    spread = answers.quantile(0.75, dim=0) - answers.quantile(0.25, dim=0)
    assert torch.allclose(made.scorer.scale, spread, atol=1e-5)
    far = [1e6, 1e9]
    assert made.score(torch.full((4, 2), far[0])) == made.score(torch.full((4, 2), far[1]))


def test_starting_from_data_starts_at_data(tiny):
    made = MetaV(iterations=1, start="data", query_lr=1e-12).construct(tiny, queries=9, seed=0)
    distance = torch.cdist(made.queries, tiny.data).min(1).values
    assert distance.max() < 0.05  # only moved off the border


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_box_maps_onto_any_box_and_back(low, high):
    spec = Spec(input_shape=(6,), output_shape=(2,), low=low, high=high, output="regression")
    w = torch.randn(50, 6)
    x = box(w, spec)
    assert x.min() > low
    assert x.max() < high
    assert torch.allclose(
        box(unbox(x, spec), spec),
        x.clamp(low + 0.005 * (high - low), high - 0.005 * (high - low)),
        atol=1e-4,
    )


def test_refuses_what_makes_no_sense(tiny):
    with pytest.raises(UsageError, match="at least 1 query, got 0"):
        MetaV().construct(tiny, queries=0, seed=0)
    with pytest.raises(UsageError, match="at least one positive suspect to construct from, got none"):
        MetaV().construct(replace(tiny, positives=[]), queries=2, seed=0)
    for data, words in (
        (tiny.data + 10, r"data in \[-1, 1\], got some in \[9"),
        (tiny.data.new_full((3, 6), torch.nan), r"data in \[-1, 1\], got some in \[nan"),
        (tiny.data[:, :5], r"data of shape \(n, 6\), got \(40, 5\)"),
        (tiny.data[:0, :5], r"data of shape \(n, 6\), got \(0, 5\)"),
        (tiny.data.new_empty(0), r"data of shape \(n, 6\), got \(0,\)"),
    ):
        with pytest.raises(UsageError, match=f"expected {words}"):
            replace(tiny, data=data)
    for options, words in {
        "start=nois": "did you mean 'noise'",
        "standardise=yes": "none, robust",
        "iterations=0": "iterations of at least 1",
        "batch=0": "batch of at least 1",
        "lr=0": "finite lr above 0",
        "lr=inf": "finite lr above 0",
        "query_lr=-1": "finite query_lr of at least 0",
        "iterations=many": "to be of type int, got 'many'",
    }.items():
        with pytest.raises(UsageError, match=words):
            schemes.get(f"metav({options})")
