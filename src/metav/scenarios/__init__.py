"""The paper's scenarios, and those that users write themselves.

warfarin  regression on 31 features (IWPC)
skin      classification of images of skin lesions (DermaMNIST)
fashion   generation of images of garments (FashionMNIST)
"""

from __future__ import annotations

import copyreg
import difflib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from metav.engine import one_thread
from metav.errors import MetavError, UsageError, described, unknown
from metav.scenarios import fashion, skin, warfarin
from metav.scenarios.base import PROFILES, Merit, Profile, Scenario, Suspect
from metav.scenarios.task import Task

SCENARIOS: dict[str, Callable[[Profile], Scenario]] = {
    "fashion": fashion.load,
    "skin": skin.load,
    "warfarin": warfarin.load,
}

_loaded: dict[tuple[str, str], Scenario] = {}


def load(name: str, profile: str = "cpu") -> Scenario:
    """Return a scenario by its name, at one of the `PROFILES`; a process reads its data once.

    A name with a colon is that of a `Task`, `package.module:task`, also of a function that returns one; modules in the
    working folder are found too.

    Raises
    ------
    UsageError
        There is no such scenario, task or profile, or the module of the task fails.
    """
    if name not in SCENARIOS and ":" not in name:
        module = name.removesuffix(".py")
        if Path(f"{module.replace('.', '/')}.py").is_file():
            raise UsageError(
                f"expected package.module:task, got {name!r}: write {module}:task, with the name of your Task after "
                "the colon."
            )
        raise unknown("scenario", name, (*SCENARIOS, "your own package.module:task"))
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if (name, profile) not in _loaded:
        with one_thread():  # as in the processes that train: what a task's module computes is the same in all
            found = (SCENARIOS.get(name) or _task(name).scenario)(profile)
        _loaded[name, profile] = replace(found, called=name)
    return _loaded[name, profile]


def _task(path: str) -> Task:
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), name)
        made = found if isinstance(found, Task) or not callable(found) else found()
    except MetavError:  # of a task's settings
        raise
    except Exception as error:
        what = described(error)
        if f"in {__file__}," in what:  # the module, or its task, is missing
            file = Path(f"{module.removesuffix('.py')}.py")
            if module != file.stem and file.is_file():
                start = "" if file.parent == Path() else f", and start it in {file.parent}/"
                raise UsageError(
                    f"expected package.module:task, got {path!r}: write {file.stem}:{name}{start}."
                ) from error
            known = [each.stem for each in Path().glob("*.py")] if isinstance(error, ModuleNotFoundError) else []
            if near := difflib.get_close_matches(module, known, n=1):
                step = f"did you mean '{near[0]}:{name}'?"
            else:
                step = (
                    "check both names, start it in the module's folder, and let a function that makes the task take "
                    "no arguments."
                )
            raise UsageError(f"expected package.module:task, got {path!r} ({error}): {step}") from error
        raise UsageError(f"expected a metav.Task at {path!r}, got {what}: correct it.") from error
    if not isinstance(made, Task):
        raise UsageError(f"expected a metav.Task at {path!r}, got {type(made).__name__}: see metav.Task.")
    return made


def _reduce(scenario: Scenario) -> Any:
    """Send a scenario to another process by its name, not with its data, where `load` would return the same there."""
    key = next((key for key, known in _loaded.items() if known is scenario), None)
    return (load, key) if key else scenario.__reduce_ex__(4)


copyreg.pickle(Scenario, _reduce)

__all__ = ["PROFILES", "SCENARIOS", "Merit", "Profile", "Scenario", "Suspect", "load"]
