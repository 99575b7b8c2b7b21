"""The matched-teacher cohort of a task: its target's architecture trained from other seeds, and thefts from each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from metav.scenarios.base import CohortPlan
from metav.suspects.pruning import filter_counts, gone

COPIES = 4  # of the target, put through each kind of theft
FILTERS = (0.3, 0.4, 0.2, 0.6, 0.7)  # shares of filters to prune, the first of use


def _cut(target: nn.Module, ratio: float) -> list[int]:
    """How many filters of each convolution are pruned."""
    return [gone(ratio, filters) for filters in filter_counts(target)]


def distinct(target: nn.Module, ratios: Sequence[float]) -> list[float]:
    """Ratios that prune at least one filter, without those that prune the same filters as an earlier ratio."""
    cuts = [_cut(target, ratio) for ratio in ratios]
    return [ratio for index, ratio in enumerate(ratios) if any(cuts[index]) and cuts[index] not in cuts[:index]]


def filter_ratio(target: nn.Module, taken: Sequence[float]) -> float | None:
    """A share of a target's filters to prune that cuts others off than each of those `taken`; None if there is none."""
    found = distinct(target, [*taken, *FILTERS])
    return next((ratio for ratio in FILTERS if ratio in found and ratio not in taken), None)


def plan(
    teacher: str,
    teachers: int,
    *,
    tunings: Sequence[str],
    tuned: str,
    study: str,
    students: Sequence[str],
    filters: float | None,
) -> CohortPlan:
    """The cohort around a target.

    Ratios of pruning are others than those of the task's suspects, so that no copy of the target is one of them.

    Parameters
    ----------
    teacher
        Lineage of a teacher, from any seed.
    teachers
        M.
    tunings
        Rows of Table 3 that train a model further: FTAL, RTLL, RTAL.
    tuned, study
        Settings of fine-tuning and of a training from scratch, both on public data, without a seed.
    students
        Architectures of students.
    filters
        A share of filters to prune, as `filter_ratio` finds it; None to leave that out.
    """
    seed = "seed=0"
    kinds = {
        "as it is": "",
        **{f"WP {ratio}": f"wp({ratio})" for ratio in (0.4, 0.6, 0.8)},
        **{row: f"{row.lower()}(public,{tuned},{seed})" for row in tunings},
        **{f"student {name}": f"distill(public,{study},{seed},student={name})" for name in students},
        f"extraction {students[-1]}": f"extract(public,{study},{seed},student={students[-1]})",
    }
    if filters is not None:
        kinds[f"FP {filters}, tuned"] = f"fp({filters})>ftal(public,{tuned},{seed})"
    return CohortPlan(teachers=teachers, copies=COPIES, teacher=teacher, kinds=kinds)
