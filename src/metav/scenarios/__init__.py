"""The paper's scenarios.

warfarin  regression on 31 features (IWPC)
skin      classification of images of skin lesions (DermaMNIST)
fashion   generation of images of garments (FashionMNIST)
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from metav.errors import unknown
from metav.scenarios import fashion, skin, warfarin
from metav.scenarios.base import PROFILES, Profile, Scenario, Suspect

SCENARIOS: dict[str, Callable[[Profile], Scenario]] = {
    "fashion": fashion.load,
    "skin": skin.load,
    "warfarin": warfarin.load,
}

_loaded: dict[tuple[str, str], Scenario] = {}


def load(name: str, profile: str = "cpu") -> Scenario:
    """Return a scenario by its name, at one of the `PROFILES`; a process reads its data once.

    Raises
    ------
    UsageError
        There is no such scenario or profile.
    """
    if name not in SCENARIOS:
        raise unknown("scenario", name, SCENARIOS)
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if (name, profile) not in _loaded:
        _loaded[name, profile] = SCENARIOS[name](profile)
    return _loaded[name, profile]


def _reduce(scenario: Scenario) -> Any:
    """Send a scenario to another process by its name, not with its data, where `load` would return the same there."""
    key = (scenario.name, scenario.profile)
    return (load, key) if _loaded.get(key) is scenario else scenario.__reduce_ex__(4)


copyreg.pickle(Scenario, _reduce)

__all__ = ["PROFILES", "SCENARIOS", "Profile", "Scenario", "Suspect", "load"]
