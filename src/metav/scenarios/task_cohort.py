"""The matched-teacher cohort of a task: its target's architecture trained from other seeds, and thefts from each."""

from __future__ import annotations

from metav.scenarios.base import CohortPlan

COPIES = 4  # of the target, put through each kind of theft


def plan(teacher: str, teachers: int, *, tuned: str, study: str, students: list[str], convolves: bool) -> CohortPlan:
    """The cohort around a target.

    Ratios of pruning are others than those of the task's suspects, so that no copy of the target is one of them.

    Parameters
    ----------
    teacher
        Lineage of a teacher, from any seed.
    teachers
        M.
    tuned, study
        Settings of fine-tuning and of a training from scratch, both on public data, without a seed.
    students
        Architectures of students.
    convolves
        Whether there are filters to prune.
    """
    seed = "seed=0"
    kinds = {
        "as it is": "",
        **{f"WP {ratio}": f"wp({ratio})" for ratio in (0.4, 0.6, 0.8)},
        "FTAL": f"ftal(public,{tuned},{seed})",
        "RTLL": f"rtll(public,{tuned},{seed})",
        "RTAL": f"rtal(public,{tuned},{seed})",
        **{f"student {name}": f"distill(public,{study},{seed},student={name})" for name in students},
        f"extraction {students[-1]}": f"extract(public,{study},{seed},student={students[-1]})",
    }
    if convolves:
        kinds["FP 0.3, tuned"] = f"fp(0.3)>ftal(public,{tuned},{seed})"
    return CohortPlan(teachers=teachers, copies=COPIES, teacher=teacher, kinds=kinds)
