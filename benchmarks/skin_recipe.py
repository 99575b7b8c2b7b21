"""Accuracy of each Skin architecture on the validation split, which no suspect and no figure elsewhere uses.

    python benchmarks/skin_recipe.py                         (the recipe of the profile cpu: one model of each)
    python benchmarks/skin_recipe.py 'S(own,12ep,lr=0.0005,batch=32,seed=1)' ...

The recipe in metav.scenarios.skin was chosen with it. Each model is trained on the owner's half in one process with
one thread; prints accuracy, seconds and the lineage, and first what always answering the largest class gives.
"""

from __future__ import annotations

import sys
import time

import torch

from metav import scenarios
from metav.engine import one_thread
from metav.scenarios.skin_data import dermamnist


def main() -> None:
    scenario = scenarios.load("skin", "cpu")
    val = dermamnist("val")
    print(f"{val.y.bincount().max().item() / len(val.y):.3f}           the largest class for all", flush=True)
    by_architecture = {s.lineage.split("(")[0]: s.lineage for s in reversed(scenario.suspects) if not s.positive}
    ours = ["target", *(lineage for name, lineage in sorted(by_architecture.items()) if name != "M")]
    for text in sys.argv[1:] or ours:
        draft = scenario.lineage(text).step.draft(None, scenario.fresh)
        start = time.perf_counter()
        with one_thread(), torch.no_grad():
            with torch.enable_grad():
                scenario.fit([draft], scenario.parts)
            seconds = time.perf_counter() - start
            right = torch.cat([draft.model(x).argmax(1) for x in val.x.split(256)]) == val.y
        print(f"{right.float().mean():.3f}  {seconds:6.1f} s  {scenario.lineage(text).full}", flush=True)


if __name__ == "__main__":
    main()
