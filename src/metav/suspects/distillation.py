"""Distillation: a student of any architecture learns from the target's answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from metav.suspects.base import Draft, Fresh, Training, all_names


@dataclass(frozen=True, kw_only=True)
class Distillation(Training):
    """Train a new model of architecture `student` on the parent's answers (MetaV, section 5.2, item 3).

    How teacher and true labels are mixed is the trainer's, e.g. teacher annealing in `metav.training`. As a lineage:
    `target>distill(public,10ep,lr=0.003,batch=64,seed=3,student=M)`. An extraction, `extract(...)`, is a distillation
    without true labels: the parent's answers are all that the student has. A `copycat(...)` of a classifier has not
    even these, but only the classes that the parent gives (Correia-Silva et al., Copycat CNN, IJCNN 2018).
    """

    student: str
    labels: int = 1  # 0: none but the parent's
    soft: int = 1  # 0: nothing but labels

    def draft(self, parent: nn.Module, fresh: Fresh) -> Draft:
        """Return the new student with the parent as its teacher."""
        model = fresh(self.student, self.seed)
        return Draft(
            model=model,
            training=self,
            trainable=all_names(model),
            teacher=parent,
            unlabelled=not self.labels,
            soft=bool(self.soft),
        )
