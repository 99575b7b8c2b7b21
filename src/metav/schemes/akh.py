"""AKH, the Anna Karenina heuristic: inputs that the target gets wrong, as every model does in its own way.

Godinot et al.: Queries, Representation and Detection: The Next 100 Model Fingerprinting Schemes, AAAI 2025.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.schemes.base import Ensemble, Needs, calibrated, check_use
from metav.schemes.points import classified, cutmix, starts
from metav.scorers import LabelAgreement


@dataclass(frozen=True, kw_only=True)
class AKH:
    """N examples that the target misclassifies; where there are fewer, mixtures of two examples fill up (CutMix).

    Neither gradients nor training: the answers of the target to the examples are enough.
    """

    needs: ClassVar[Needs] = Needs(answers="labels", gradients=False)

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Choose N = `queries` examples at random among those misclassified.

        Raises
        ------
        UsageError
            There are fewer, and the inputs are no images that could be mixed.
        """
        check_use("akh", self.needs, ensemble, queries)
        generator = torch.Generator().manual_seed(seed)
        x = classified(ensemble, queries, generator, right=False)
        found = len(x)
        if found < queries:
            if len(ensemble.spec.input_shape) != 3:
                raise UsageError(
                    f"expected {queries} examples that the target misclassifies, got {found}: ask for fewer queries."
                )
            x = torch.cat([x, cutmix(starts(ensemble, queries - found, generator), generator)])
        provenance = {"scheme": "akh", "seed": seed, "options": asdict(self), "misclassified": found}
        return calibrated(ensemble, x, LabelAgreement.of, provenance)
