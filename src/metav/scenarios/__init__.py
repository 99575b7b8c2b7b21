"""The paper's scenarios.

warfarin  regression on 31 features (IWPC)
fashion   generation of images of garments (FashionMNIST)
"""

from __future__ import annotations

from collections.abc import Callable

from metav.errors import unknown
from metav.scenarios import fashion, warfarin
from metav.scenarios.base import PROFILES, Profile, Scenario, Suspect

SCENARIOS: dict[str, Callable[[Profile], Scenario]] = {"fashion": fashion.load, "warfarin": warfarin.load}


def load(name: str, profile: str = "cpu") -> Scenario:
    """Return a scenario by its name, at one of the `PROFILES`.

    Raises
    ------
    UsageError
        There is no such scenario or profile.
    """
    if name not in SCENARIOS:
        raise unknown("scenario", name, SCENARIOS)
    for known in PROFILES:
        if known == profile:
            return SCENARIOS[name](known)
    raise unknown("profile", profile, PROFILES)


__all__ = ["PROFILES", "SCENARIOS", "Profile", "Scenario", "Suspect", "load"]
