"""metav: was that model derived from mine?

The public names; nothing heavy is imported before one of them is used.

Fingerprint             queries + scorer + spec in one file
verify, Verdict         ask a suspect, judge it by its answers
Spec                    what a model takes and gives
schemes, Ensemble       ways to make a fingerprint
Task, Part              your own model, and examples
scenarios, Zoo          the paper's tasks and their suspects
evaluation              robustness, uniqueness, ARUC, AUC
testing                 a check for those who write a scheme
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metav import evaluation, scenarios, schemes, testing
    from metav.fingerprint import Fingerprint
    from metav.scenarios.task import Task
    from metav.schemes import Ensemble
    from metav.spec import Spec
    from metav.training import Part
    from metav.verification import Verdict, verify
    from metav.zoo import Zoo

__version__ = "0.1.0"

_WHERE = {
    "Fingerprint": "metav.fingerprint",
    "Ensemble": "metav.schemes",
    "Part": "metav.training",
    "Spec": "metav.spec",
    "Task": "metav.scenarios.task",
    "Verdict": "metav.verification",
    "verify": "metav.verification",
    "Zoo": "metav.zoo",
}
_MODULES = ("evaluation", "scenarios", "schemes", "testing")

__all__ = [
    "Ensemble",
    "Fingerprint",
    "Part",
    "Spec",
    "Task",
    "Verdict",
    "Zoo",
    "__version__",
    "evaluation",
    "scenarios",
    "schemes",
    "testing",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _MODULES:
        return import_module(f"metav.{name}")
    raise AttributeError(f"module 'metav' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
