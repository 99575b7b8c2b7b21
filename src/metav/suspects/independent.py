"""Independent training: a model from scratch. The target itself is made so, and so is every negative suspect."""

from __future__ import annotations

from dataclasses import dataclass

from metav.suspects.base import Draft, Fresh, Training, all_names


@dataclass(frozen=True, kw_only=True)
class Independent(Training):
    """Train a new model of `architecture` from random weights (MetaV, section 5.2).

    As a lineage: `S(own,30ep,lr=0.001,batch=64,seed=3)`, where `S` is the architecture's name in the scenario.
    """

    architecture: str

    def draft(self, parent: None, fresh: Fresh) -> Draft:
        """Return the new model; there is no parent."""
        model = fresh(self.architecture, self.seed)
        return Draft(model=model, training=self, trainable=all_names(model))
