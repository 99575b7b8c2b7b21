"""What a scenario is: data, a target, architectures, a training recipe and a composition of suspects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from metav.errors import unknown
from metav.spec import Spec
from metav.suspects import Draft, Lineage, parse
from metav.suspects.base import seeded
from metav.training import Part

Profile = Literal["smoke", "cpu", "paper"]
PROFILES: tuple[Profile, ...] = ("smoke", "cpu", "paper")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One suspect of a scenario's table: its lineage, its row in the table, and what it truly is."""

    lineage: str
    family: str
    positive: bool


def thin(suspects: Sequence[Suspect], most: int = 4) -> tuple[Suspect, ...]:
    """Keep at most `most` of each family, evenly spread: a small zoo that still has every kind of suspect."""
    families: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        families.setdefault(suspect.family, []).append(suspect)
    return tuple(
        members[index * len(members) // min(most, len(members))]
        for members in families.values()
        for index in range(min(most, len(members)))
    )


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One learning task with everything needed to build its zoo.

    Attributes
    ----------
    name, profile
        Which scenario, and at which size.
    spec
        The interface of all its models.
    parts
        Data by name: at least `own` (the owner's), `public` (all that an attacker has) and `test`.
    architectures
        Constructors by the name that lineages use.
    target
        The target's lineage; `target` stands for it in all others.
    suspects
        The composition of the zoo (Table 3 of the paper), without the target.
    fit
        Trains drafts in place on the parts.
    quality
        (model, target, test part) -> named figures, e.g. error and agreement with the target.
    method
        What `fit` does, in words; part of each suspect's identity.
    data
        Which files the data came from, for the user to read.
    group
        How many models of one architecture `fit` is given at once; 1 where it gains nothing from more, so that each
        is on disk as soon as it is trained.
    """

    name: str
    profile: Profile
    spec: Spec
    parts: Mapping[str, Part]
    architectures: Mapping[str, Callable[[], nn.Module]]
    target: str
    suspects: tuple[Suspect, ...]
    fit: Callable[[Sequence[Draft], Mapping[str, Part]], None]
    quality: Callable[[nn.Module, nn.Module, Part], dict[str, float]]
    method: str
    data: str = ""
    group: int = 16  # side by side: more bring little, fewer spread better over processes

    def lineage(self, text: str) -> Lineage:
        """Parse a lineage in which `target` stands for this scenario's target."""
        return parse(text, self.target)

    def fresh(self, architecture: str, seed: int) -> nn.Module:
        """Return a new model of a named architecture with weights drawn from `seed`."""
        if architecture not in self.architectures:
            raise unknown("architecture", architecture, self.architectures)
        with seeded(seed):
            return self.architectures[architecture]()

    def settings(self) -> dict[str, str]:
        """All that changes a suspect besides its lineage; a zoo keeps to one set of settings."""
        sha = hashlib.sha256()
        for name, part in sorted(self.parts.items()):
            sha.update(name.encode())
            sha.update(part.x.numpy().tobytes())
            sha.update(part.y.numpy().tobytes())
        return {
            "scenario": self.name,
            "profile": self.profile,
            "data": sha.hexdigest()[:16],
            "method": self.method,
        }
