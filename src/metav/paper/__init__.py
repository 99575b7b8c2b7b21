"""The paper's whole evaluation: which benchmarks it consists of, run one after the other, and what they showed.

MetaV, sections 5 and 6. `plan` is the table of contents: the paper's figures and tables by scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metav.errors import unknown
from metav.scenarios.base import BUILT_IN

SCENARIOS = BUILT_IN
QUERIES = tuple(range(10, 101, 10))  # Fig. 5c and 6
MODELS = (1, 2, 5, 10, 20, 35)  # of each side: ensembles of 2, 4, 10, 20, 40 and 70, Fig. 5d and 7
REPEATS, FEWER = 5, 3  # the latter of the two sweeps

# Options that were tried on the first zoos: docs/skin.md and docs/warfarin.md.
VARIANT = {
    "skin": "metav(start=data,iterations=300,lr=0.003)",
    "warfarin": "metav(standardise=robust,batch=4)",
    "fashion": "metav(standardise=robust)",
}
CLASSIFIERS = ("ipguard", "deepfoolfp", "conferae", "modeldiff", "sac-m", "akh")
SWEPT = ("ipguard", "deepfoolfp", "modeldiff")  # in Fig. 6, but for ConferAE, which takes minutes for each


@dataclass(frozen=True, kw_only=True)
class Part:
    """One benchmark of the paper: what `metav bench SCENARIO` does with these options, or a learning curve.

    `shows` says which of the paper's figures and tables it is for.
    """

    name: str
    shows: str
    scenario: str
    schemes: tuple[str, ...]
    repeats: int
    queries: tuple[int, ...] = (100,)
    models: tuple[int, ...] = (0,)
    learning: bool = False


def plan(profile: str, only: Sequence[str] = SCENARIOS) -> list[Part]:
    """The paper's benchmarks, those of the main results first; `smoke` has fewer of everything.

    `only` names scenarios, for all of their parts, or single parts; the main one of a scenario is SCENARIO-main.

    Raises
    ------
    UsageError
        The paper has no such scenario, and no such part.
    """
    parts = sorted(_parts(profile), key=lambda part: part.name != part.scenario)
    names = [part.name if part.name != part.scenario else f"{part.name}-main" for part in parts]
    for name in only:
        if name not in (known := {*SCENARIOS, *names}):
            raise unknown("scenario of the paper, or a part,", name, known)
    return [part for part, name in zip(parts, names, strict=True) if part.scenario in only or name in only]


def _parts(profile: str) -> list[Part]:
    smoke = profile == "smoke"
    repeats, fewer = (2, 1) if smoke else (REPEATS, FEWER)
    queries, models = ((4, 8), (1, 2)) if smoke else (QUERIES, MODELS)
    found = []
    for name in SCENARIOS:
        both = ("metav(iterations=2)", "metav(iterations=2,batch=2)") if smoke else ("metav", VARIANT[name])
        peers, swept = (CLASSIFIERS, SWEPT) if name == "skin" else (("modeldiff",), ())
        curves = "Fig. 2b-f" if name == "skin" else "Fig. 5a-b"
        main = Part(
            name=name,
            shows=f"Fig. 2a, 3 and Table 5; {curves}",
            scenario=name,
            schemes=(*both, "cohort", *peers),
            repeats=repeats,
            queries=queries[-1:],
        )
        # on Skin the literal algorithm takes nine minutes for each fingerprint
        fast = both[1:] if name == "skin" else both
        found += [
            main,
            Part(
                name=f"{name}-queries",
                shows="Fig. 5c and 6",
                scenario=name,
                schemes=(*fast, *swept),
                repeats=fewer,
                queries=queries,
            ),
            Part(
                name=f"{name}-models",
                shows="Fig. 5d and 7",
                scenario=name,
                schemes=fast,
                repeats=fewer,
                models=models,
                queries=queries[-1:],
            ),
            Part(
                name=f"{name}-learning",
                shows="Fig. 4",
                scenario=name,
                schemes=both,
                repeats=repeats,
                queries=queries[-1:],
                learning=True,
            ),
        ]
    return found
