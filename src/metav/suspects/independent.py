"""Models without a parent: trained from scratch, as targets and negative suspects are, or ready when they came."""

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


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A model that came trained: a user's own, or one that is known to be independent. As a lineage: `ready(target)`.

    `architecture` is the name under which the scenario has it, weights and all.
    """

    architecture: str

    def draft(self, parent: None, fresh: Fresh) -> Draft:
        """Return the model; there is no parent, and nothing to train."""
        return Draft(model=fresh(self.architecture, 0))
