"""Protocols: which suspects a fingerprint is constructed from, and which ones it is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from metav.errors import UsageError, unknown
from metav.scenarios.base import Scenario, Suspect
from metav.suspects.independent import Ready

Protocol = Literal["paper", "unseen-obfuscation", "unseen-architecture", "api", "open-world"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


def check(scenario: Scenario, name: str) -> Protocol:
    """Return a protocol by its name.

    Raises
    ------
    UsageError
        There is none of that name, or the scenario has no open world, or nothing that an API may let out.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    if name == "open-world" and not scenario.open_world and scenario.outsiders is None:
        raise UsageError(
            f"expected a scenario with an open world, got {scenario.name}, which has none: use --protocol paper."
        )
    if name == "api" and not scenario.views:
        raise UsageError(
            f"expected a scenario that says what an API may let out, got {scenario.name}: use --protocol paper."
        )
    return name


def split(suspects: Sequence[Suspect], seed: int) -> tuple[list[Suspect], list[Suspect]]:
    """Halve positives and negatives at random into construction and test suspects (MetaV, section 5.2).

    Suspects with a common ancestor other than the target go to one half: construction sees no relative of a test
    suspect but the target.

    Raises
    ------
    UsageError
        A side would have fewer than two suspects in a half.
    """
    generator = np.random.default_rng(seed)
    construction: list[Suspect] = []
    test: list[Suspect] = []
    for positive, kind in ((True, "positive"), (False, "negative")):
        side = [suspect for suspect in suspects if suspect.positive is positive]
        chains = kin(side)
        halves: tuple[list[Suspect], list[Suspect]] = ([], [])
        for index in generator.permutation(len(chains)):
            chain = chains[index]
            halves[len(halves[0]) + len(chain) > len(side) // 2].extend(chain)
        if min(map(len, halves)) < 2:
            raise UsageError(
                f"expected {kind} suspects for two halves of at least two, with relatives in one half, got {len(side)} "
                f"in {len(chains)} groups of relatives: add some to the scenario."
            )
        construction += [halves[0][index] for index in generator.permutation(len(halves[0]))]
        test += halves[1]
    return construction, test


def kin(suspects: Sequence[Suspect]) -> list[list[Suspect]]:
    """Suspects in groups of those that share more than the target, in the order of each group's first.

    They were made from one another, or from the same model that was made from the target; or from one that was not.
    """
    groups: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        links = suspect.lineage.split(">")
        groups.setdefault(">".join(links[: 1 + (links[0] == "target")]), []).append(suspect)
    return list(groups.values())


def few(construction: Sequence[Suspect], models: int) -> list[Suspect]:
    """The first `models` suspects of each side; those of fewer are among those of more. All of them for 0.

    Raises
    ------
    UsageError
        A side has fewer.
    """
    chosen = []
    for positive in (True, False):
        side = [suspect for suspect in construction if suspect.positive is positive]
        if len(side) < models:
            raise UsageError(
                f"expected at most {len(side)} models a side to construct from, got {models}: ask for fewer."
            )
        chosen += side[: models or None]
    return chosen


def what_is_left_out(scenario: Scenario, protocol: Protocol, only: Sequence[str] | None = None) -> list[str]:
    """What a protocol leaves out of construction, one after the other: nothing, or obfuscations, or architectures.

    `only` names some of these.

    Raises
    ------
    UsageError
        The protocol leaves out no such thing.
    """
    if protocol == "unseen-obfuscation":
        found = [scenario.lineage(each.lineage).obfuscation for each in scenario.suspects if each.positive]
    elif protocol == "unseen-architecture":
        lineages = [scenario.lineage(each.lineage) for each in scenario.suspects if not each.positive]
        known = [each for each in lineages if not isinstance(each.step, Ready)]  # ready ones are of no known kind
        found = [each.new_architecture for each in known]
    else:
        found = [""]
    if not found:
        raise UsageError(
            f"expected suspects that {protocol} can leave out, got none in {scenario.name}: choose another protocol."
        )
    if only is not None and found == [""]:
        raise UsageError(
            f"expected a protocol that leaves something out, got {protocol}: drop --left-out, or "
            "choose unseen-obfuscation or unseen-architecture."
        )
    for name in only or ():
        if name not in found:
            raise unknown(f"kind that {protocol} leaves out", name, dict.fromkeys(found))
    return list(dict.fromkeys(found if only is None else only))


def is_left_out(scenario: Scenario, protocol: Protocol, left_out: str, lineage: str) -> bool:
    """Whether a model may not be constructed from: it is of the obfuscation, or the architecture, that is left out.

    A model with the weights of the target, changed or not, is never left out for its architecture.
    """
    found = scenario.lineage(lineage)
    if protocol == "unseen-obfuscation":
        return found.obfuscation == left_out
    return protocol == "unseen-architecture" and found.new_architecture == left_out


def divide(
    scenario: Scenario, protocol: Protocol, left_out: str, repetition: int
) -> tuple[list[Suspect], list[Suspect]]:
    """Suspects of the zoo to construct from, and to test on.

    Both are halves of it. With `unseen-obfuscation` the positives that are tested are all those of the obfuscation
    `left_out`; with `unseen-architecture` the negatives are all those of the architecture, and all its students are
    among the positives.

    Raises
    ------
    UsageError
        A side has fewer than two suspects to construct from, or to test on.
    """
    construction, test = split(scenario.suspects, repetition)
    unseen = [each for each in scenario.suspects if is_left_out(scenario, protocol, left_out, each.lineage)]
    if protocol == "unseen-obfuscation":
        test = [*unseen, *(each for each in test if not each.positive)]
    if protocol == "unseen-architecture":
        test = [*unseen, *(each for each in test if each.positive and each not in unseen)]
    construction = [each for each in construction if each not in unseen]
    for positive, kind in ((True, "positive"), (False, "negative")):
        for part, use in ((construction, "construct from"), (test, "test on")):
            if (got := sum(each.positive is positive for each in part)) < 2:
                raise UsageError(
                    f"expected at least two {kind} suspects to {use} without {left_out}, got {got}: "
                    "add some to the scenario, or choose another protocol."
                )
    return construction, test


def check_enough(
    scenario: Scenario, protocol: Protocol, models: Sequence[int], repeats: int, only: Sequence[str] | None = None
) -> None:
    """Refuse, before anything is trained, what some repetition could not be constructed from or tested on.

    Raises
    ------
    UsageError
        A side has fewer suspects than two, or than one of the numbers `models` a side; or as `what_is_left_out`.
    """
    for left_out in what_is_left_out(scenario, protocol, only):
        for repetition in range(repeats):
            construction, _ = divide(scenario, protocol, left_out, repetition)
            for count in models:
                few(construction, count)
