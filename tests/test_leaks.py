"""No test suspect, nor anything made from one, reaches a scheme: in any protocol, scenario or repetition."""

from __future__ import annotations

import pytest

from metav import protocols, scenarios
from metav.scenarios import Suspect
from metav.zoo import SNAPSHOTS, Zoo

REPEATS = 5


@pytest.fixture(scope="module", params=["warfarin", "skin", "fashion"])
def zoo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbuilt")
    return Zoo(scenarios.load(request.param, "cpu"), folder, SNAPSHOTS, cohort=True, open_world=True)


def ancestry(scenario, text):
    """A lineage in canonical form, and those it was made from, but for the target."""
    lineage = scenario.lineage(text)
    if lineage.text == "target":
        return set()
    return {lineage.text} | (set() if lineage.parent is None else ancestry(scenario, lineage.parent))


def constructed_from(zoo, protocol, left_out, construction):
    """Lineages of all that a scheme may see: suspects, their snapshots, and the cohort."""
    seen = [suspect.lineage for suspect in construction]
    seen += [snapshot for lineage in seen for snapshot in zoo.snapshots(lineage)]
    cohort = zoo.cohort.all()
    return seen + [each for each in cohort if not protocols.is_left_out(zoo.scenario, protocol, left_out, each)]


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_nothing_made_from_a_test_suspect_reaches_a_scheme(zoo, protocol):
    scenario, checked = zoo.scenario, 0
    for left_out in protocols.what_is_left_out(scenario, protocol):
        for repetition in range(REPEATS):
            construction, test = protocols.divide(scenario, protocol, left_out, repetition)
            if protocol == "open-world":
                test = zoo.open_world
            tested = {scenario.lineage(suspect.lineage).text for suspect in test}
            for text in constructed_from(zoo, protocol, left_out, construction):
                assert not ancestry(scenario, text) & tested, text
                checked += 1
    assert checked >= REPEATS * 70


def test_what_was_made_from_one_another_stays_together():
    links = [">ftal(public,1ep,lr=0.1,batch=8,seed=1)", ">wp(0.9)>rtal(public,1ep,lr=0.1,batch=8,seed=1)"]
    chains = [[f"target>wp({index / 10})"] for index in range(1, 8)]
    chains[0] += [chains[0][0] + link for link in links]
    chains[4] += [chains[4][0] + links[1]]
    listed = [Suspect(lineage=text, family="WP", positive=True) for chain in chains for text in chain]
    listed += [Suspect(lineage=f"S(own,seed={index})", family="x", positive=False) for index in range(4)]
    for seed in range(50):
        construction, test = protocols.split(listed, seed)
        halves = [{each.lineage for each in half if each.positive} for half in (construction, test)]
        assert [len(half) for half in halves] == [5, 5]
        assert all(set(chain) <= halves[0] or set(chain) <= halves[1] for chain in chains)
    drawn = {suspect.lineage for seed in range(50) for suspect in protocols.split(listed, seed)[1]}
    assert drawn == {suspect.lineage for suspect in listed}


def test_siblings_stay_together_though_their_parent_is_no_suspect(zoo):
    for repetition in range(REPEATS):
        halves = protocols.split(zoo.scenario.suspects, repetition)
        parents = [{tuple(each.lineage.split(">")[:2]) for each in half if each.positive} for half in halves]
        assert not parents[0] & parents[1]
