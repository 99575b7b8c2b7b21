"""What a scenario is: data, a target, architectures, a training recipe and a composition of suspects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import nn

from metav.errors import unknown
from metav.spec import Spec
from metav.suspects import Draft, Lineage, parse
from metav.suspects.base import seeded
from metav.training import Part

Profile = Literal["smoke", "cpu", "paper"]
BOX = "box"
TEACHER_SEED, THEFT_SEED = 10_000, 20_000  # of the first; no suspect of a zoo has seeds as high
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
class CohortPlan:
    """Teachers trained as the target was, and the kinds of theft that each of them and the target are put through.

    Attributes
    ----------
    teachers, copies
        M models by the target's recipe from other seeds; R copies of the target, each put through every kind once.
    teacher
        Lineage of a teacher, with `{seed}` where its seed stands.
    kinds
        Kind of theft -> links that make a theft from a model, with `{seed}`; none for the model as it is.
    near, far
        Kinds that are told apart on real data, and those that are anywhere in the box.
    others
        Lineages of a few independent models of more varied kinds than the zoo's.
    """

    teachers: int
    copies: int
    teacher: str
    kinds: Mapping[str, str]
    near: tuple[str, ...]
    far: tuple[str, ...]
    others: tuple[str, ...] = ()

    def all(self) -> tuple[str, ...]:
        """Lineages of the whole cohort."""
        return (*chain.from_iterable(map(self.lineages, self.kinds)), *self.others)

    def lineages(self, kind: str) -> tuple[str, ...]:
        """Lineages of one kind: M thefts from the teachers, then R from the target."""
        links = f">{self.kinds[kind]}" if self.kinds[kind] else ""
        sources = [self.teacher.format(seed=TEACHER_SEED + index) for index in range(self.teachers)]
        return tuple(
            (source + links).format(seed=THEFT_SEED + index)
            for index, source in enumerate([*sources, *["target"] * self.copies])
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
    cohort
        What the matched-teacher cohort consists of, where the scenario has one.
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
    cohort: CohortPlan | None = None

    def lineage(self, text: str) -> Lineage:
        """Parse a lineage in which `target` stands for this scenario's target."""
        return parse(text, self.target)

    def rows(self, data: str) -> int:
        """Number of examples of a part, or of `box`."""
        return len(self.parts["public" if data == BOX else data].x)

    def examples(self) -> dict[str, Part]:
        """The parts, and `box`: as many inputs as there are public ones, drawn evenly from the box; their `y` is 0.

        They follow from the other parts and the interface, so that they are no settings of their own.
        """
        public, span = self.parts["public"], self.spec.high - self.spec.low
        drawn = torch.rand(public.x.shape, generator=torch.Generator().manual_seed(0))
        return {**self.parts, BOX: Part(x=self.spec.low + span * drawn, y=torch.zeros_like(public.y))}

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
