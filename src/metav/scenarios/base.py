"""What a scenario is: data, a target, architectures, a training recipe and a composition of suspects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metav.engine import seeded
from metav.errors import unknown
from metav.spec import Model, Spec
from metav.suspects import Draft, Lineage, parse
from metav.suspects.facade import Change
from metav.training import Part

Profile = Literal["smoke", "cpu", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
MADE = ("box", "corners", "noisy", "mixed")  # of public inputs
LOSS = 0.1  # of the target's quality, beyond which a theft is of no use
FEW = 5  # one public example of so many
BUILT_IN = ("skin", "warfarin", "fashion")  # scenarios, in the order of the paper; no task takes their names
TEACHER_SEED, THEFT_SEED = 10_000, 20_000  # of the first; no suspect of a zoo has seeds as high


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One suspect of a scenario's table: its lineage, its row in the table, and what it truly is."""

    lineage: str
    family: str
    positive: bool


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A suspect in hand, whether or not it has a lineage: what it truly is, and its figures of quality."""

    name: str
    family: str
    positive: bool
    model: Model
    quality: Mapping[str, float] = field(default_factory=dict)


def mixtures(target: Model, other: Model) -> Iterator[Subject]:
    """Thefts that answer with the mean of `target` and an independent model, in two proportions."""
    for share in (0.5, 0.7):
        model = partial(_mixed, target, other, share)
        yield Subject(name=f"{share} target, rest independent", family="mixture", positive=True, model=model)


def _mixed(first: Model, second: Model, share: float, x: Tensor) -> Tensor:
    return share * first(x) + (1 - share) * second(x)


def stolen(listed: Iterable[tuple[str, str]]) -> Iterator[Suspect]:
    """Thefts from pairs of a family and the links after the target."""
    return (Suspect(lineage=f"target>{links}", family=family, positive=True) for family, links in listed)


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
        Lineage of a teacher, from any seed: as a rule the target's.
    kinds
        Kind of theft -> links that make a theft from a model, from any seed; first, without links, the model as it is.
    others
        Lineages of further independent models, by the zoo's recipes from other seeds, and of kinds that it lacks.
    """

    teachers: int
    copies: int
    teacher: str
    kinds: Mapping[str, str]
    others: tuple[str, ...] = ()

    def all(self) -> tuple[str, ...]:
        """Lineages of the whole cohort."""
        return (*chain.from_iterable(map(self.lineages, self.kinds)), *self.others)

    def lineages(self, kind: str) -> tuple[str, ...]:
        """Lineages of one kind: M thefts from the teachers, then R from the target."""
        sources = [_reseeded(self.teacher, TEACHER_SEED + index) for index in range(self.teachers)]
        links = [_reseeded(self.kinds[kind], THEFT_SEED + index) for index in range(self.teachers + self.copies)]
        chains = zip([*sources, *["target"] * self.copies], links, strict=True)
        return tuple(f"{source}>{link}" if link else source for source, link in chains)


def _reseeded(links: str, seed: int) -> str:
    return re.sub(r"\bseed=\d+", f"seed={seed}", links)


@dataclass(frozen=True, kw_only=True)
class Merit:
    """The figure of quality that counts, and whether more of it is better."""

    name: str
    more: bool

    def is_useful(self, quality: Mapping[str, float], target: Mapping[str, float]) -> bool:
        """Whether a model is of use: it has not lost more than a tenth of the target's quality."""
        own, best = quality[self.name], target[self.name]
        lost = best - own if self.more else own - best
        return lost <= LOSS * abs(best)


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
    merit
        Which of these figures tells whether a suspect is of use.
    method
        What `fit` does, in words; part of each suspect's identity.
    data
        Which files the data came from, for the user to read.
    group
        How many models of one kind `fit` is given at once, or a few times as many of a kind that has many; 1 where
        it gains nothing from more, so that each is on disk as soon as it is trained.
    cohort
        What the matched-teacher cohort consists of, where the scenario has one.
    open_world
        Suspects of kinds that neither the table nor the cohort holds, for the open-world protocol alone.
    outsiders
        (target, part by name) -> further ones, which are not trained by the zoo.
    views
        What an API may let out of the answers, by name, besides all of them: changes that leave the inputs alone.
    called
        The name it was loaded by; empty for one that was made by hand.
    """

    name: str
    profile: Profile
    spec: Spec
    parts: Mapping[str, Part]
    architectures: Mapping[str, Callable[[], nn.Module]]
    target: str
    suspects: tuple[Suspect, ...]
    fit: Callable[[Sequence[Draft], Mapping[str, Part]], None]
    quality: Callable[[Model, Model, Part], dict[str, float]]
    merit: Merit
    method: str
    data: str = ""
    group: int = 16  # side by side: fewer spread better over processes
    cohort: CohortPlan | None = None
    open_world: tuple[Suspect, ...] = ()
    outsiders: Callable[[Model, Callable[[str], Part]], Iterable[Subject]] | None = None
    views: Mapping[str, Change] = field(default_factory=dict)
    called: str = ""

    def lineage(self, text: str) -> Lineage:
        """Parse a lineage in which `target` stands for this scenario's target."""
        return parse(text, self.target)

    def rows(self, data: str) -> int:
        """Number of examples of a part."""
        public = len(self.parts["public"].x)
        return {"few": public // FEW, **dict.fromkeys(MADE, public)}.get(data) or len(self.parts[data].x)

    def part(self, data: str) -> Part:
        """A part by its name, or one that is derived from the public part, and so is not among the settings.

        `few` is the first fifth of it. As many inputs as it has, of which nobody knows the answers (`y` is 0): `box`,
        drawn evenly from the box, and `corners` of the box; `noisy` public ones; and `mixed` ones, with three in ten
        values from another.
        """
        public, spec = self.parts["public"], self.spec
        if data == "few":
            return Part(x=public.x[: self.rows("few")], y=public.y[: self.rows("few")])
        if data not in MADE:
            return self.parts[data]
        generator = torch.Generator().manual_seed(MADE.index(data))
        even, noise = (draw(public.x.shape, generator=generator) for draw in (torch.rand, torch.randn))
        other = public.x[torch.randperm(len(public.x), generator=generator)]
        low, high = spec.bounds()
        middle, half = (high + low) / 2, (high - low) / 2
        x = {
            "box": lambda: middle + half * (2 * even - 1),
            "corners": lambda: middle + half * noise.sign(),
            "noisy": lambda: spec.clamp(public.x + 0.3 * half * noise),
            "mixed": lambda: torch.where(even < 0.3, other, public.x),
        }[data]()
        return Part(x=x, y=torch.zeros_like(public.y))

    def fresh(self, architecture: str, seed: int) -> nn.Module:
        """Return a new model of a named architecture with weights drawn from `seed`."""
        with seeded(seed):
            return self.constructor(architecture)()

    def constructor(self, architecture: str) -> Callable[[], nn.Module]:
        """The constructor of a named architecture."""
        if architecture not in self.architectures:
            raise unknown("architecture", architecture, self.architectures)
        return self.architectures[architecture]

    @cached_property
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
