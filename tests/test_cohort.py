"""The cohort scheme against slow references that invert whole matrices, and what its scorer must not care about."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch import Tensor, nn
from torch.nn.functional import one_hot

import tiny
from metav import scenarios, schemes
from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.base import CohortModels
from metav.schemes.cohort import Cohort
from metav.schemes.cohort_answers import (
    FAR,
    FOLDS,
    Answers,
    Conditioned,
    Known,
    candidates,
    choose,
    moments,
    one_by_one,
)
from metav.scorers.cohort import CLIP, COLUMNS, LIMIT, TESTS, TINY, CohortMatch, CohortRank, columns
from metav.scorers.control import MatchedControl, Tail, rarity
from metav.stacks import together
from metav.verification import verify

RIDGE = 0.5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def drawn(seed: int = 0, queries: int = 6, size: int = 2, teachers: int = 20, copies: int = 5):
    """Moments of random answers whose columns are correlated."""
    mixed = noise(queries * size, queries * size, seed=seed)
    thefts = (noise(teachers + copies, queries * size, seed=seed + 1) @ mixed).reshape(-1, queries, size)
    independent = 3 * noise(7, queries, size, seed=seed + 2)
    return moments(thefts, teachers, independent, 0.1, 0.5), thefts, independent


def literal_sigma(thefts: Tensor, independent: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma and s over all columns, from covariance matrices as numpy has them."""
    c, own = thefts[:20].flatten(1), thefts[20:].flatten(1)
    mu, sd = c.mean(0), c.std(0) + 0.1
    c, w = (c - mu) / sd, (own - own.mean(0)) / sd
    b = FAR * ((independent.flatten(1) - mu) / sd / FAR).tanh()
    sigma = c.T @ c / len(c) + w.T @ w / len(w) + 0.25 * b.T @ b / len(b)
    return sigma, (own.mean(0) - mu) / sd


# -- the information of queries ------------------------------------------------------------------------------------


def test_conditioning_leaves_the_schur_complement():
    found, thefts, independent = drawn()
    sigma, s = literal_sigma(thefts, independent)
    left = Conditioned(found, RIDGE)
    left.pick(2)
    left.pick(4)
    added = left.known - 1
    at = [4, 5, 8, 9]
    given = torch.linalg.inv(sigma[at][:, at] + RIDGE * torch.eye(4))
    assert added == pytest.approx((s[at] @ given @ s[at]).item(), rel=1e-9)
    assert torch.allclose(left.s.flatten(), s - sigma[:, at] @ given @ s[at])
    remaining = sigma - sigma[:, at] @ given @ sigma[at]
    blocks = torch.stack([remaining[2 * q : 2 * q + 2, 2 * q : 2 * q + 2] for q in range(6)])
    assert torch.allclose(left.blocks, blocks, atol=1e-9)


def test_gains_are_the_information_of_each_query_alone():
    found, thefts, independent = drawn()
    sigma, s = literal_sigma(thefts, independent)
    for query, gain in enumerate(Conditioned(found, RIDGE).gains().tolist()):
        at = slice(2 * query, 2 * query + 2)
        block = sigma[at, at] + RIDGE * torch.eye(2)
        assert gain == pytest.approx((s[at] @ torch.linalg.inv(block) @ s[at]).item(), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_queries_are_chosen_as_by_inverting_all_of_sigma_for_each_candidate(size):
    kinds = [drawn(seed, queries=9, size=size)[0] for seed in (0, 10, 20)]
    allowed = torch.tensor([True] * 8 + [False])

    def told(kind, queries: list[int]) -> float:
        at = torch.tensor(queries, dtype=torch.long)
        sigma, s = kind.covariance(at, RIDGE), kind.s[at].flatten()
        return float(s @ torch.linalg.inv(sigma) @ s) if queries else 0.0

    expected: list[int] = []
    for _ in range(4):
        known = [1 + told(kind, expected) for kind in kinds]
        free = [query for query in range(8) if query not in expected]
        slopes = [
            sum((1 + told(kind, [*expected, query]) - now) / now for kind, now in zip(kinds, known, strict=True))
            for query in free
        ]
        expected.append(free[max(range(len(free)), key=slopes.__getitem__)])

    def picked(count: int) -> list[int]:
        return one_by_one([Conditioned(kind, RIDGE) for kind in kinds], count, allowed, Conditioned.relative_gains)

    assert picked(4) == expected
    assert sorted(picked(20)) == list(range(8))  # no more than there are
    chosen = choose(kinds, allowed, (4, 2), RIDGE, Conditioned.relative_gains)
    assert chosen[:4] == expected
    assert len(set(chosen)) == 6


def test_candidates_are_the_real_data_then_others_in_the_box():
    ensemble = tiny.regressors()
    x, real = candidates(ensemble, 50, 41, torch.Generator().manual_seed(0))
    assert len(x) == len(real) == 50 + 41
    assert all((ensemble.data == each).all(1).any() for each in x[real])
    assert len(x[real].unique(dim=0)) == 50
    assert len(candidates(ensemble, 1000, 0, torch.Generator())[0]) == 60
    others = x[50:]
    assert others.min() >= ensemble.spec.low
    assert others.max() <= ensemble.spec.high
    on_border = ((others == ensemble.spec.low) | (others == ensemble.spec.high)).all(1)
    assert 8 <= on_border.sum() <= 11
    assert not candidates(ensemble, 60, 0, torch.Generator())[1].logical_not().any()


# -- the scorer -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> Fingerprint:
    return schemes.get("cohort(pool=200,near=0.4,level=0.1,sharp=0.5)").construct(tiny.regressors(), queries=20, seed=0)


def literal_match(x: Tensor, ridge: float, first: int, last: int, kind: str, answers: Tensor) -> float:
    """z of one suspect's answers (N, c) for one kind on the queries from `first` to `last`, by the docstring."""
    ensemble = tiny.regressors()
    known = Answers(ensemble, ensemble.cohort, 0.5).known(x)
    found = known.moments()[list(ensemble.cohort.kinds).index(kind)]
    view = slice(first, last)
    sigma = found.covariance(view, ridge).double()
    deviation = ((answers - found.mu) / found.sd)[view].flatten().double()
    squashed = CLIP * (deviation / CLIP).tanh()
    length = (squashed @ torch.linalg.inv(sigma) @ squashed).sqrt()

    def match(seen: Tensor, sigma: Tensor, owner: Tensor) -> Tensor:
        precision = torch.linalg.inv(sigma)
        size = (owner @ precision @ owner).sqrt()
        return size * (seen @ precision @ owner / (length * size)).clamp(-LIMIT, LIMIT).atanh()

    own = match(squashed, sigma, found.s[view].flatten().double())
    teachers = torch.stack([c[view].flatten().double() for c in found.c])
    matches = []
    for index, teacher in enumerate(teachers):  # from all others alone, in the same units
        others = torch.cat([teachers[:index], teachers[index + 1 :]])
        centred = others - others.mean(0)
        without = sigma + (centred.T @ centred - teachers.T @ teachers) / len(teachers)
        seen = squashed - others.mean(0)  # about the mean of all others, where it was about that of all
        matches.append(match(seen, without, teacher - others.mean(0)))
    cohort = torch.stack(matches)
    return float((own - cohort.mean()) / (cohort.std() + TINY))


def test_matches_are_as_written(made):
    suspect = tiny.regressors().positives[0](made.queries)
    z = made.scorer.matches(suspect.flatten()[None])[0].tolist()
    cohort = tiny.regressors().cohort
    copies = len(cohort.kinds["noise"](made.queries)) - cohort.teachers
    sharp = 0.5 * (1 / cohort.teachers + 1 / copies)
    assert sharp < 0.5 * RIDGE
    expected = [
        literal_match(made.queries, ridge, *view, kind, suspect)
        for ridge in (RIDGE, sharp)
        for view in ((0, 8), (8, 20), (0, 20))
        for kind in cohort.kinds
    ]
    assert z == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_what_all_teachers_share_matches_the_target_no_better_than_them():
    """Teachers and target are drawn around one function; a suspect that is this function is nobody's."""
    found = []
    for draw in range(20):
        shared, common = noise(2, 40, 8, seed=4 * draw).float()
        drawn_ = [
            shared + noise(count, 40, 8, seed=4 * draw + seed).float() for seed, count in ((1, 40), (2, 1), (3, 30))
        ]
        thefts = torch.cat([drawn_[0], drawn_[1].expand(4, -1, -1)])
        known = Known(thefts=[thefts], independent=drawn_[2] + 0.7 * common, teachers=40, floor=0.2, weight=0.5)
        scorer = Cohort()._scorer(Answers(tiny.regressors(), tiny.regressors().cohort, 0.5), known, 20)
        stolen = 0.7 * shared + 0.3 * drawn_[1][0]
        found.append(scorer.matches(torch.stack([shared, stolen]).flatten(1)))
    z = torch.stack(found)
    assert z[:, 0].mean().abs() < 0.7  # of a variable of mean 0 and spread 1
    assert z[:, 0].std() < 1.5
    assert z[:, 1].min() > 5


def test_close_matches_on_few_numbers_are_stronger_than_their_products():
    """Models that answer the same to everything have six numbers each: a product with F's is a few spreads at most."""
    found = []
    for draw in range(20):
        constants = noise(40 + 1 + 30, 6, seed=draw).float()
        answers = constants[:, None].expand(-1, 40, -1) + 0.01 * noise(71, 40, 6, seed=100 + draw).float()
        thefts = torch.cat([answers[:40], answers[40].expand(4, -1, -1)])
        known = Known(thefts=[thefts], independent=answers[41:], teachers=40, floor=0.2, weight=0.5)
        scorer = Cohort()._scorer(Answers(tiny.regressors(), tiny.regressors().cohort, 0.5), known, 20)
        stranger = noise(6, seed=200 + draw).float()
        z = scorer.matches(torch.stack([constants[40], stranger])[:, None].expand(-1, 40, -1).flatten(1)).mean(1)
        products = constants[:41] @ constants[40]
        found.append([*z.tolist(), float((products[40] - products[:40].mean()) / products[:40].std())])
    theft, stranger, product = torch.tensor(found).median(0).values.tolist()
    assert theft > 1.5 * product > 3
    assert abs(stranger) < 1


def test_no_model_known_as_independent_reaches_the_threshold(made):
    ensemble = tiny.regressors()
    assert all(verify(made, model).rate < 0.5 for model in ensemble.negatives)
    answers = torch.stack([model(made.queries).flatten() for model in ensemble.negatives])
    assert made.scorer.above(made.scorer.matches(answers)).max() < 0
    assert verify(made, ensemble.target).rate > 0.95


def test_a_stranger_is_not_matched_and_a_theft_is():
    ensemble = tiny.regressors()
    many = tiny.cohort(ensemble.target, lambda seed: tiny.frozen(tiny.regressor(seed)), tiny.regressor, teachers=96)
    found = schemes.get("cohort(pool=200,level=0.02)").construct(replace(ensemble, cohort=many), queries=20, seed=0)
    strangers = [tiny.frozen(tiny.regressor(seed)) for seed in range(900, 960)]
    thefts = [tiny.near(ensemble.target, tiny.regressor(0), seed) for seed in range(700, 720)]
    assert sum(verify(found, model).derived for model in strangers) <= 2  # calibrated on 96 teachers
    assert all(verify(found, model).derived for model in thefts)


@pytest.mark.parametrize("teachers", [3, 6, 20])
def test_each_known_model_is_met_once_by_queries_and_a_scorer_without_it(teachers):
    ensemble = tiny.regressors()
    few = tiny.cohort(
        ensemble.target, lambda seed: tiny.frozen(tiny.regressor(seed)), tiny.regressor, teachers=teachers
    )
    known = Answers(ensemble, few, 0.5).known(ensemble.data)
    met = []
    for rest, strangers in known.folds():
        made_from = torch.cat([rest.independent, *rest.thefts])
        alone, from_teachers, from_target = strangers
        models = torch.cat([alone, from_teachers.flatten(0, 1), from_target[:, 1:].flatten(0, 1)])  # copies are alike
        assert not (made_from[:, None] == models).flatten(2).all(2).any()
        for index, (thefts, every) in enumerate(zip(rest.thefts, known.thefts, strict=True)):
            assert len(thefts) + len(from_teachers) + len(from_target) == len(every)
            assert all(any(torch.equal(each, theft) for theft in every[:teachers]) for each in from_teachers[:, index])
            assert all(any(torch.equal(each, theft) for theft in every[teachers:]) for each in from_target[:, index])
        assert [len(kind.c) for kind in rest.moments()] == [rest.teachers] * 2
        met.append(models)
    everyone = torch.cat([known.independent, known.thefts[0][:teachers], *known.thefts[1:]])
    assert torch.equal(torch.cat(met).flatten(1).sum(1).sort().values, everyone.flatten(1).sum(1).sort().values)
    found = schemes.get("cohort(pool=60)").construct(replace(ensemble, cohort=few), queries=12, seed=0)
    assert 0 <= verify(found, ensemble.target).rate <= 1


def test_the_calibration_chooses_queries_and_makes_scorers_without_those_they_meet(monkeypatch):
    chosen, teachers, met = [], [], []
    choosing, scoring, matching = Cohort._choose, Cohort._scorer, CohortMatch.matches

    def choose_(self, known, *rest):
        picked = choosing(self, known, *rest)
        chosen.append(known.at(picked))
        return picked

    def scorer_(self, answers, known, near):
        teachers.append(known.teachers)
        return scoring(self, answers, known, near)

    def matches_(self, answers):
        met.append(answers)
        return matching(self, answers)

    monkeypatch.setattr(Cohort, "_choose", choose_)
    monkeypatch.setattr(Cohort, "_scorer", scorer_)
    monkeypatch.setattr(CohortMatch, "matches", matches_)
    schemes.get("cohort(pool=60)").construct(tiny.regressors(), queries=12, seed=0)
    *parts, whole = chosen
    copies = 4
    assert [known.teachers for known in chosen] == teachers == [36] * FOLDS + [48]
    assert [len(known.thefts[0]) for known in chosen] == [39] * FOLDS + [48 + copies]
    assert sum(each.shape[:-1].numel() for each in met) == len(whole.independent) + (48 + copies) * len(whole.thefts)
    assert [len(each) for each in met[1::3]] == [12] * FOLDS
    assert [len(each) for each in met[2::3]] == [1] * FOLDS
    for index, left_out in enumerate(met):
        known = parts[index // 3]
        used = torch.cat([known.independent, *known.thefts]).flatten(1)
        models = left_out[:, 1:].flatten(0, 1) if index % 3 == 2 else left_out.flatten(0, -2)  # copies are alike
        assert not (used[:, None] == models).all(2).any()


def rare(values: Tensor, law: Tail) -> Tensor:
    """p-values of some values."""
    count, known = torch.tensor(law.count), torch.tensor(law.known)
    return torch.exp(-rarity(values, law.begin, law.scale, count, known))


@pytest.mark.parametrize("law", ["gumbel", "exponential", "normal"])
@pytest.mark.parametrize("known", [20, 40, 400])
def test_p_values_hold_for_few_known_strangers_too(law, known):
    """Many calibrations on a few values each, and one more value each."""
    uniform = torch.rand(3000, known + 1, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6).double()
    values = {
        "gumbel": 5 - 2 * (-uniform.log()).log(),
        "exponential": -3 * uniform.log(),
        "normal": noise(3000, known + 1),
    }[law]
    p = torch.stack([rare(each[-1], Tail.of(each[:-1], torch.ones(known))) for each in values])
    for level in (0.05, 0.01):
        assert 0.3 * level < (p <= level).double().mean() <= 1.5 * level


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_p_values_hold_where_an_owner_has_several_models(common):
    """Known are 40 owners of six models each, which hang together or not; met is one model of one more owner."""
    owners, thefts = noise(2000, 41, 1, seed=1), noise(2000, 41, 6, seed=2)
    values = common * owners + (1 - common**2) ** 0.5 * thefts
    weights = torch.full((40 * 6,), 1 / 6)
    p = torch.stack([rare(each[-1, 0], Tail.of(each[:-1].flatten(), weights)) for each in values])
    for level, least in ((0.05, 0.01), (0.01, 0.0)):
        assert least <= (p <= level).double().mean() <= 1.5 * level


def test_the_law_of_few_values_is_paretos():
    law = Tail.of(torch.tensor([3.0, 1.0, 2.0]), torch.ones(3))
    assert (float(law.begin), float(law.scale), law.count, law.known) == (1.0, 1.5, 2, 3)
    p = rare(torch.tensor([1.0, 4.0, 0.0]), law)
    assert p.tolist() == pytest.approx([3 / 4, 3 / 4 * (1 + 2 / 2) ** -2, 3 / 4 * math.exp(1 / 1.5)])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 5, 1, 0, 4, 2]])
def test_models_of_one_owner_count_once_in_the_law(order):
    """One owner's two models, and four of one model each: half of a tail of three owners is the first's."""
    values, weights = torch.tensor([9.0, 8.0, 7.0, 6.0, 2.0, 1.0]), torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0, 1.0])
    law = Tail.of(values[order], weights[order])
    assert (law.count, law.known) == (4, 5)
    assert (float(law.begin), float(law.scale)) == (1.0, (8 / 2 + 7 / 2 + 6 + 5 + 1) / 4)


def test_the_rate_is_made_of_the_smaller_p_value_doubled(made):
    scorer = made.scorer
    suspects = [*tiny.regressors().positives, *tiny.regressors().negatives]
    answers = torch.stack([model(made.queries).flatten() for model in suspects])
    matches = scorer.matches(answers)
    for row, above in zip(scorer.tests(matches), scorer.above(matches).tolist(), strict=True):
        laws = [
            Tail(begin=begin, scale=scale, count=float(count), known=float(scorer.known))
            for begin, scale, count in zip(scorer.begin, scorer.scale, scorer.count, strict=True)
        ]
        p = 2 * min(float(rare(value, law)) for value, law in zip(row, laws, strict=True))
        assert above == pytest.approx(math.log(scorer.level / p), abs=1e-4)
    for above, rate in ((0.0, 0.5), (math.log(10), 0.99)):
        scorer_ = CohortMatch(queries=1, near=0, size=1, kinds=1, teachers=3, rows=9, output="regression", level=0.01)
        scorer_.above = lambda _, above=above: torch.tensor(above)
        assert scorer_.rate(torch.zeros(1, 1)) == pytest.approx(rate, abs=1e-3)


def test_a_level_is_the_share_of_strangers_that_are_accused():
    """From matches to verdicts, of strangers like those known; one owner's six thefts have six chances."""
    generator = torch.Generator().manual_seed(0)

    def strangers(count: int, thefts: int) -> Tensor:
        """Matches of 6 kinds on 3 views in two tests, those of one model hang together."""
        common = torch.randn(count, 1, 36, generator=generator)
        return 0.6 * common + 0.8 * torch.randn(count, thefts, 36, generator=generator)

    accused, owners = [], []
    for _ in range(40):
        scorer = CohortMatch(queries=2, near=1, size=1, kinds=6, teachers=3, rows=9, output="regression", level=0.02)
        scorer.calibrate([(strangers(9, 1)[:, 0], strangers(8, 6), 8 + strangers(1, 6)) for _ in range(4)])
        accused.append((scorer.above(strangers(2000, 1)) > 0).float().mean())
        owners.append((scorer.above(strangers(500, 6)).amax(1) > 0).float().mean())
    assert 0.005 < torch.stack(accused).mean() <= 0.02
    assert torch.stack(owners).mean() <= 6 * 0.02


def test_the_laws_are_those_of_known_strangers_by_owner():
    """A literal reference: values of tests that were fitted without their fold, a teacher's thefts as one model."""

    def scorer() -> CohortMatch:
        return CohortMatch(queries=2, near=1, size=1, kinds=6, teachers=3, rows=9, output="regression", level=0.02)

    shapes = ((9, 36), (8, 6, 36), (1, 6, 36))
    folds = [tuple(noise(*shape, seed=3 * fold + len(shape)).float() for shape in shapes) for fold in range(4)]
    made = scorer()
    made.calibrate(folds)
    assert made.known == 4 * (9 + 8)
    for test in (0, 1):
        values, weights = [], []
        for left_out, (independent, teachers, _) in enumerate(folds):
            other = scorer()
            other._fit([fold for index, fold in enumerate(folds) if index != left_out])
            values += [other.tests(independent)[:, test], other.tests(teachers)[..., test].flatten()]
            weights += [torch.ones(9), torch.full((48,), 1 / 6)]
        law = Tail.of(torch.cat(values), torch.cat(weights))
        found = [float(each[test]) for each in (made.begin, made.scale, made.count)]
        assert found == pytest.approx([float(law.begin), float(law.scale), law.count], rel=1e-5)
    assert made.count[0] != made.count[1]


def test_values_that_the_law_is_learnt_from_are_of_scorers_without_them(monkeypatch):
    fitted, met = [], []
    fitting, testing = MatchedControl.fit, CohortMatch.tests

    def fit(self, *known):
        fitted.append(torch.cat([each.flatten(0, -2) for each in known]))
        return fitting(self, *known)

    def tests(self, matches):
        met.append((matches[..., self.width :].flatten(0, -2), len(fitted)))  # of the test that is fitted
        return testing(self, matches)

    monkeypatch.setattr(MatchedControl, "fit", fit)
    monkeypatch.setattr(CohortMatch, "tests", tests)
    schemes.get("cohort(pool=60)").construct(tiny.regressors(), queries=12, seed=0)
    assert len(fitted) == FOLDS + 1
    for matches, after in met:
        assert not (fitted[after - 1][:, None] == matches).all(2).any()
    assert sum(len(matches) for matches, _ in met) < len(fitted[-1])  # the target's own count for no law


def literal_ratio(z: Tensor, strangers: list[Tensor], target: Tensor) -> float:
    """The logarithm of the ratio, by its docstring, with scipy's t-distributions."""
    pooled = np.cov(torch.cat(strangers).numpy().T)
    scatters = []
    for group in strangers:
        scatter = 0.5 * np.cov(group.numpy().T) + 0.5 * pooled
        scatters.append(0.7 * scatter + 0.3 * np.diag(np.maximum(np.diag(scatter), 1)))

    def density(centre: Tensor, scatter) -> float:
        return multivariate_t(loc=centre.numpy(), shape=scatter, df=50).pdf(z.numpy())

    alone, *controls = [density(group.mean(0), scatter) for group, scatter in zip(strangers, scatters, strict=True)]
    stolen = [density(centre, scatter) for centre, scatter in zip(target.mean(0), scatters[1:], strict=True)]
    return math.log(np.mean(stolen)) - math.log(0.5 * alone + 0.5 * np.mean(controls))


def test_the_matched_control_is_that_of_a_literal_reference():
    independent, teachers, target = noise(30, 6, seed=1), 2 * noise(20, 3, 6, seed=2), 3 + noise(4, 3, 6, seed=3)
    control = MatchedControl(3, 6).double()
    control.fit(independent, teachers, target)
    suspects = torch.cat([target[0], teachers[0], independent[:3]])
    expected = [literal_ratio(each, [independent, *teachers.unbind(1)], target) for each in suspects]
    assert control(suspects).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_weak_thefts_of_a_known_kind_are_told_from_strangers():
    """Matches that are small, but those of a kind of theft; strangers have some large ones by chance."""
    generator = torch.Generator().manual_seed(0)

    def drawn_(*shape: int) -> Tensor:
        return torch.randn(*shape, 60, generator=generator)

    scorer = CohortMatch(queries=2, near=1, size=1, kinds=10, teachers=3, rows=9, output="regression", level=0.01)
    shift = torch.zeros(10, 60)
    shift[:9], shift[9] = 15.0, 1.0  # nine kinds that match well, and one that hardly does
    scorer.calibrate([(drawn_(20), drawn_(50, 10), shift + drawn_(2, 10)) for _ in range(4)])
    weak, strangers = shift[9] + drawn_(200), drawn_(2000)
    assert (scorer.above(weak) > 0).float().mean() > 0.9
    assert (scorer.above(strangers) > 0).float().mean() <= 0.01
    largest = scorer.tests(torch.cat([weak, strangers]))[:, 0]
    assert (largest[:200] > largest[200:].quantile(0.99)).float().mean() < 0.8  # of large matches alone


def test_fewer_than_three_teachers_are_a_sentence():
    ensemble = tiny.regressors()
    few = tiny.cohort(ensemble.target, lambda seed: tiny.frozen(tiny.regressor(seed)), tiny.regressor, teachers=2)
    with pytest.raises(UsageError, match=r"^expected at least 3 teachers, got 2: plan a larger cohort\.$"):
        schemes.get("cohort").construct(replace(ensemble, cohort=few), queries=12, seed=0)


def test_positives_of_the_zoo_decide_nothing(made):
    ensemble = tiny.regressors()
    other = replace(ensemble, positives=ensemble.negatives[:1])
    again = schemes.get("cohort(pool=200,near=0.4,level=0.1,sharp=0.5)").construct(other, queries=20, seed=0)
    assert again.digest == made.digest


def test_a_file_holds_answers_and_no_weights(made, tmp_path):
    made.save(tmp_path / "x.safetensors")
    loaded = Fingerprint.load(tmp_path / "x.safetensors")
    for model in tiny.regressors().positives:
        assert verify(loaded, model).rate == verify(made, model).rate
    columns_ = 20 * 2
    expected = {"mu": 2 * columns_, "sd": 2 * columns_, "spread": 6, "begin": 2, "scale": 2, "count": 2, "known": 1}
    expected |= {"control.centres": 5 * 6, "control.precision": 3 * 36, "control.height": 3}
    widths = {"near": 16, "far": 24, "all": 40}
    for view, width in widths.items():
        found = min(width, 48 + 4 + 12 * FOLDS + 1)  # teachers, copies, independent models and the target
        expected |= {f"basis_{view}": 2 * found * width}
        for test in (f"{view}_{test}" for test in TESTS):
            owners = {f"owners_{test}": 2 * (found + 1) * 49, f"length_{test}": 2 * 49}
            expected |= {f"precision_{test}": 2 * (found + 1), **owners}
    assert {name: each.numel() for name, each in made.scorer.state_dict().items()} == expected


@pytest.mark.parametrize("near", [0.0, 1.0])
def test_all_queries_may_be_of_one_sort(near):
    ensemble = tiny.regressors()
    found = schemes.get(f"cohort(pool=60,near={near},level=0.1)").construct(ensemble, queries=12, seed=0)
    assert verify(found, ensemble.target).rate > 0.95
    real = torch.tensor([any(torch.equal(query, each) for each in ensemble.data) for query in found.queries])
    assert real.all() if near else not real.all()


def test_without_a_cohort_there_is_a_sentence():
    with pytest.raises(UsageError, match="expected a matched-teacher cohort, got none"):
        schemes.get("cohort").construct(replace(tiny.regressors(), cohort=None), queries=5, seed=0)


# -- the exact variant ---------------------------------------------------------------------------------------------

EXACT = "cohort(pool=100,exact=1,level=0.1)"


def owned(owner: int, models: list) -> CohortModels:
    """A cohort in which one of some models is the target and all others are its teachers, in their order."""
    teachers = [model for index, model in enumerate(models) if index != owner]

    def kind(seed: int):
        stolen = [tiny.near(model, tiny.regressor(0), seed + index) for index, model in enumerate(models)]
        return together([each for index, each in enumerate(stolen) if index != owner] + [stolen[owner]])

    kinds = {"as it is": together([*teachers, models[owner]]), "noise": kind(300), "other noise": kind(400)}
    return CohortModels(teachers=len(teachers), kinds=kinds)


@pytest.fixture(scope="module")
def models() -> list:
    return [tiny.frozen(tiny.regressor(seed)) for seed in range(20)]


def test_target_and_teachers_are_treated_alike(models):
    """With another of them as the target, queries are the same and the matches change places."""
    ensemble, stranger = tiny.regressors(), tiny.frozen(tiny.regressor(999))
    p_values, queries = [], []
    for owner in range(len(models)):
        given = replace(ensemble, target=models[owner], cohort=owned(owner, models))
        found = schemes.get(EXACT).construct(given, queries=15, seed=0)
        queries.append(found.queries)
        p_values.append(found.scorer.p_value(stranger(found.queries)))
    assert all(torch.equal(each, queries[0]) for each in queries)
    assert sorted(p_values) == pytest.approx([(index + 1) / 20 for index in range(20)])


def test_a_theft_has_the_smallest_p_value_and_is_called_derived(models):
    given = replace(tiny.regressors(), target=models[0], cohort=owned(0, models))
    found = schemes.get(EXACT).construct(given, queries=15, seed=0)
    assert found.threshold == pytest.approx(0.9)
    for seed in range(10):
        outputs = tiny.near(models[0], tiny.regressor(0), 800 + seed)(found.queries)
        assert found.scorer.p_value(outputs) == pytest.approx(1 / 20)
        assert found.score(outputs) == pytest.approx(19 / 20)
    assert verify(found, models[0]).derived


def test_a_level_that_no_rank_can_reach_is_a_sentence():
    with pytest.raises(UsageError, match=r"expected at least 200 teachers for a level of 0.005, got 48: "):
        schemes.get("cohort(exact=1)").construct(tiny.regressors(), queries=5, seed=0)


def test_matches_with_owners_are_those_of_a_literal_loop():
    """Each owner's largest match over kinds, in that kind's spread over owners."""
    generator = torch.Generator().manual_seed(0)
    scorer = CohortRank(columns=6, kinds=2, owners=5, output="regression")
    for buffer in (scorer.mu, scorer.owners):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    scorer.sd.copy_(0.5 + torch.rand(scorer.sd.shape, generator=generator))
    answers = 3 * torch.randn(6, generator=generator)
    largest = []
    for owner in range(5):
        found = []
        for kind in range(2):
            deviation = [
                2 * math.tanh(float((answers[c] - scorer.mu[kind, c]) / scorer.sd[kind, c]) / 2) for c in range(6)
            ]
            products = [sum(deviation[c] * float(scorer.owners[kind, c, each]) for c in range(6)) for each in range(5)]
            found.append((products[owner] - statistics.mean(products)) / (statistics.stdev(products) + 1e-3))
        largest.append(max(found))
    assert scorer.matches(answers).tolist() == pytest.approx(largest, rel=1e-4)
    better = sum(each >= largest[0] for each in largest)
    assert scorer.p_value(answers.reshape(6, 1)) == pytest.approx(better / 5)


def test_a_fingerprint_of_skin_is_a_file_of_less_than_20_mb(tmp_path):
    plan, spec = scenarios.load("skin", "cpu").cohort, scenarios.load("skin", "cpu").spec
    rows = plan.teachers + plan.copies + 35 + 1  # all independent models of a construction
    scorer = CohortMatch(100, 50, 7, len(plan.kinds), plan.teachers, rows, spec.output, 0.01)
    queries = torch.zeros(100, *spec.input_shape)
    Fingerprint(queries=queries, scorer=scorer, spec=spec, reference=torch.zeros(100, 7)).save(tmp_path / "fp")
    assert 1e6 < (tmp_path / "fp").stat().st_size < 20e6


def test_answers_that_match_all_owners_alike_are_no_evidence(models):
    scorer = CohortRank(columns=4, kinds=2, owners=5, output="regression")
    assert scorer.p_value(torch.zeros(4, 1)) == 1
    assert scorer.rate(torch.zeros(4, 1)) == 0


def test_queries_tell_owners_apart():
    found, *_ = drawn()
    sigma = found.covariance(slice(None), 0.0)
    for query, gain in enumerate(Conditioned(found, RIDGE).apart().tolist()):
        at = slice(2 * query, 2 * query + 2)
        expected = torch.trace(sigma[at, at] @ torch.linalg.inv(sigma[at, at] + RIDGE * torch.eye(2)))
        assert gain == pytest.approx(expected.item(), rel=1e-9)
    first = int(Conditioned(found, RIDGE).apart().argmax())
    everything = torch.ones(6, dtype=torch.bool)
    assert one_by_one([Conditioned(found, RIDGE)], 3, everything, Conditioned.apart)[0] == first


# -- columns -------------------------------------------------------------------------------------------------------


def test_columns_of_doses_are_doses():
    doses = torch.randn(3, 5, 2)
    assert torch.equal(columns(doses, "regression"), doses)


def test_columns_of_probabilities_are_centred_logarithms():
    logits = torch.randn(3, 5, 4)
    found = columns(logits.softmax(-1), "probabilities")
    assert torch.allclose(found, logits - logits.mean(-1, keepdim=True), atol=1e-5)
    certain = columns(torch.tensor([[1.0, 0.0, 0.0]]), "probabilities")
    assert certain.isfinite().all()
    assert certain[0, 0] - certain[0, 1] == pytest.approx(math.log(1000))


def test_columns_of_labels_are_the_largest_probabilities():
    found = columns(torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]), "labels")
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("options", ["pool=200,level=0.1", "pool=200,level=0.1,exact=1"])
def test_with_labels_alone_only_the_largest_probability_counts(options):
    ensemble = tiny.classifiers()
    found = schemes.get(f"cohort({options},labels=1)").construct(ensemble, queries=40, seed=0)
    sharper = verify(found, lambda x: one_hot(ensemble.target(x).argmax(-1), 4).float())
    assert sharper.rate == verify(found, ensemble.target).rate > found.threshold
    innocent = [verify(found, model).rate for model in ensemble.negatives]
    assert statistics.median(innocent) < found.threshold  # of strangers one in ten may be accused


def test_labels_alone_are_refused_where_there_are_none():
    with pytest.raises(UsageError, match=r"class labels for cohort\(labels=1\)"):
        schemes.get("cohort(labels=1)").construct(tiny.regressors(), queries=20, seed=0)


def test_columns_of_images_keep_distances():
    images = torch.rand(2, 40, 1, 28, 28)
    found = columns(images, "images", 3)
    assert found.shape == (2, 40, COLUMNS)
    assert torch.equal(found, columns(images, "images", 3))
    apart = (images[0] - images[1]).flatten(1).square().sum(1).mean() / 784
    assert (found[0] - found[1]).square().mean() == pytest.approx(apart.item(), rel=0.5)


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
def test_images_may_have_any_axes(shape):
    whole, spec = tiny.generators(), replace(tiny.CODES, output_shape=shape)

    def flat(model):
        return tiny.frozen(nn.Sequential(model, nn.Flatten(), nn.Unflatten(1, shape)))

    cohort = replace(
        whole.cohort,
        kinds={
            kind: (lambda x, ask=ask: ask(x).reshape(*ask(x).shape[:2], *shape))
            for kind, ask in whole.cohort.kinds.items()
        },
        others=[flat(model) for model in whole.cohort.others],
    )
    ensemble = replace(
        whole,
        cohort=cohort,
        target=flat(whole.target),
        positives=[flat(model) for model in whole.positives],
        negatives=[flat(model) for model in whole.negatives],
        spec=spec,
    )
    for options in ("", "(exact=1,level=0.1)"):
        found = schemes.get(f"cohort{options}").construct(ensemble, queries=20, seed=0)
        expected = schemes.get(f"cohort{options}").construct(whole, queries=20, seed=0)
        assert found.score(ensemble.target(found.queries)) == pytest.approx(
            expected.score(whole.target(expected.queries))
        )


def test_in_bfloat16_the_same_is_found_and_single_answers_differ():
    ensemble = tiny.regressors()
    found = schemes.get("cohort(pool=200,half=1,level=0.1)").construct(ensemble, queries=20, seed=0)
    exact = schemes.get("cohort(pool=200,level=0.1)").construct(ensemble, queries=20, seed=0)
    assert not torch.equal(found.scorer.spread, exact.scorer.spread)
    assert torch.equal(found.queries[:10], exact.queries[:10])
    for name in ("mu", "sd"):  # scored in float32
        assert torch.equal(getattr(found.scorer, name)[:, :20], getattr(exact.scorer, name)[:, :20])
    assert verify(found, ensemble.target).rate > 0.5
    assert all(verify(found, model).rate < 0.5 for model in ensemble.negatives)
