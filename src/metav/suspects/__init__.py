"""Ways to make a suspect, one file each.

Positive suspects (derived from the target)
    pruning       weight pruning `wp`, filter pruning `fp`
    fine_pruning  filters cut off by how little they do, then tuned `fineprune`
    finetuning    fine-tuning `ftll` `ftal` `ft`, partial retraining `rtll` `rtal` `rt`
    distillation  students `distill` `extract` `copycat`
    perturbation  fewer bits `quantise`, noise on the weights `jitter`
    changed_answers, changed_inputs (behind a `facade`)
                  answers changed on their way out: `rounded` `noisy` `clipped` `rescaled` `tempered` `top`;
                  images on their way in: `blurred` `compressed` `squeezed`
Negative suspects
    independent   training from scratch, and models that are there already `ready`

They compose: `target>wp(0.3)>ftal(public,10ep,lr=0.001,batch=64,seed=2)`; `lineage` reads such a text.
"""

from metav.suspects.base import Draft, Fresh, Training
from metav.suspects.distillation import Distillation
from metav.suspects.finetuning import FineTuning, Retraining
from metav.suspects.independent import Independent
from metav.suspects.lineage import Lineage, parse
from metav.suspects.pruning import FilterPruning, WeightPruning

__all__ = [
    "Distillation",
    "Draft",
    "FilterPruning",
    "FineTuning",
    "Fresh",
    "Independent",
    "Lineage",
    "Retraining",
    "Training",
    "WeightPruning",
    "parse",
]
