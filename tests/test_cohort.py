"""The cohort scheme: matches against a slow reference, its calibration, and what its scorer must not care about."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import tiny
from metav import scenarios, schemes
from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.cohort import Cohort
from metav.schemes.cohort_answers import FOLDS, Answers, Known
from metav.scorers.cohort import CLIP, LIMIT, TESTS, TINY, CohortMatch
from metav.scorers.control import MatchedControl, Tail
from metav.verification import verify
from tiny import normal, rare

RIDGE = 0.5


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
        shared, common = normal(2, 40, 8, seed=4 * draw).float()
        drawn_ = [
            shared + normal(count, 40, 8, seed=4 * draw + seed).float() for seed, count in ((1, 40), (2, 1), (3, 30))
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
        constants = normal(40 + 1 + 30, 6, seed=draw).float()
        answers = constants[:, None].expand(-1, 40, -1) + 0.01 * normal(71, 40, 6, seed=100 + draw).float()
        thefts = torch.cat([answers[:40], answers[40].expand(4, -1, -1)])
        known = Known(thefts=[thefts], independent=answers[41:], teachers=40, floor=0.2, weight=0.5)
        scorer = Cohort()._scorer(Answers(tiny.regressors(), tiny.regressors().cohort, 0.5), known, 20)
        stranger = normal(6, seed=200 + draw).float()
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
    folds = [tuple(normal(*shape, seed=3 * fold + len(shape)).float() for shape in shapes) for fold in range(4)]
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


def test_a_fingerprint_of_skin_is_a_file_of_less_than_20_mb(tmp_path):
    plan, spec = scenarios.load("skin", "cpu").cohort, scenarios.load("skin", "cpu").spec
    rows = plan.teachers + plan.copies + 35 + 1  # all independent models of a construction
    scorer = CohortMatch(100, 50, 7, len(plan.kinds), plan.teachers, rows, spec.output, 0.01)
    queries = torch.zeros(100, *spec.input_shape)
    Fingerprint(queries=queries, scorer=scorer, spec=spec, reference=torch.zeros(100, 7)).save(tmp_path / "fp")
    assert 1e6 < (tmp_path / "fp").stat().st_size < 20e6


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
