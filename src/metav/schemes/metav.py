"""MetaV: adaptive queries and a meta-verifier, learnt together on an ensemble of models.

Pan, Yan, Zhang, Yang: MetaV: A Meta-Verifier Approach to Task-Agnostic Model Fingerprinting, KDD 2022, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metav.engine import seeded
from metav.errors import UsageError, unknown
from metav.fingerprint import Fingerprint
from metav.frozen import halved
from metav.optim import Adam
from metav.schemes.base import Ensemble, Needs, check_at_least, check_flags, check_gradients, check_learning
from metav.scorers import NEGATIVE, POSITIVE, MetaVerifier
from metav.spec import Model, Spec


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What there is after some iterations; `loss` is the mean of minus equation 1 since the stage before."""

    iteration: int
    loss: float
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class MetaV:
    """Algorithm 1 of the paper; the defaults are its literal reading.

    Parameters
    ----------
    iterations, lr
        Number of steps L and the learning rate of both Adam optimisers (section 5.5.1).
    depth, width
        Hidden layers of the meta-verifier and their units.
    start
        Where the queries start: `noise` (w ~ N(0, 1)) or `data` (public examples).
    standardise
        `none`: the verifier sees the answers as they are. `robust`: each answer minus its median over the ensemble at
        the first queries, divided by its interquartile range, clipped to [-`clip`, `clip`].
    batch
        Positive and negative models sampled in each step, of each kind; the paper samples one.
    query_lr
        Learning rate of the queries where it should differ from `lr`; 0 for the same.
    valid
        1 for queries that a form accepts, by the steps and groups of a table's `Spec`: in each iteration the models see
        the nearest valid rows, and the gradient is that of the rows before (straight-through, Bengio et al., 2013).
    half
        1 for models that are asked in bfloat16, which is faster where the processor computes with it; the target is
        fingerprinted all the same, as rounding moves an answer less than a theft does.

    The box of the queries is that of the target's `Spec`.
    """

    needs: ClassVar[Needs] = Needs(answers="anything", suspects=True, data=False)

    iterations: int = 1000
    lr: float = 0.001
    depth: int = 1
    width: int = 100
    start: str = "noise"
    standardise: str = "none"
    clip: float = 3.0
    batch: int = 1
    query_lr: float = 0.0
    valid: int = 0
    half: int = 0

    def __post_init__(self) -> None:
        if self.start not in ("noise", "data"):
            raise unknown("start of the queries", self.start, ("noise", "data"))
        if self.standardise not in ("none", "robust"):
            raise unknown("standardisation", self.standardise, ("none", "robust"))
        least = {"iterations": 1, "depth": 0, "width": 1, "batch": 1}
        check_at_least(**{name: (getattr(self, name), low) for name, low in least.items()})
        check_flags(valid=self.valid, half=self.half)
        for name in ("lr", "clip"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise UsageError(f"expected a finite {name} above 0, got {value}: change the option.")
        if not 0 <= self.query_lr < math.inf:
            raise UsageError(f"expected a finite query_lr of at least 0, got {self.query_lr}: change the option.")

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Learn N = `queries` queries and their meta-verifier; the threshold is p+ > p-."""
        *_, stage = self.course(ensemble, queries=queries, seed=seed, at={self.iterations})
        return stage.fingerprint

    def course(self, ensemble: Ensemble, *, queries: int, seed: int, at: Collection[int]) -> Iterator[Stage]:
        """Construct, and yield what there is after each number `at` of iterations, from 1 to `iterations`."""
        check_learning(ensemble, queries, valid=self.valid)
        if self.half:
            ensemble = ensemble.changed(halved)
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            w, verifier = self._start(ensemble, queries, generator)
        check_gradients("metav", ensemble.target, box(w.detach()[:1], ensemble.spec, self.valid))
        losses: list[Tensor] = []
        for iteration, likelihood in enumerate(self._learn(ensemble, w, verifier, generator), 1):
            losses.append(-likelihood)
            if iteration in at:
                fingerprint = Fingerprint(
                    queries=box(w.detach().clone(), ensemble.spec, self.valid),
                    scorer=deepcopy(verifier).eval().requires_grad_(False),
                    spec=ensemble.spec,
                    threshold=0.5,
                    provenance={"scheme": "metav", "seed": seed, "options": asdict(self)},
                )
                yield Stage(iteration=iteration, loss=float(torch.stack(losses).mean()), fingerprint=fingerprint)
                losses.clear()

    def _learn(
        self, ensemble: Ensemble, w: Tensor, verifier: MetaVerifier, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Algorithm 1, lines 5 to 12: change `w` and `verifier` in place; yield the likelihood before each change."""
        theta = list(verifier.parameters())
        opt_w, opt_theta = Adam([w], self.query_lr or self.lr), Adam(theta, self.lr)
        k = self.batch
        for _ in range(self.iterations):
            negatives = sample(ensemble.negatives, k, generator)
            positives = sample(ensemble.positives, k, generator)
            x = box(w, ensemble.spec, self.valid)
            answers = torch.stack([model(x).flatten() for model in (*negatives, ensemble.target, *positives)])
            log_p = verifier(answers)
            # equation 1, to be maximised: log p+(M+) + log p+(F) + log p-(M-)
            likelihood = log_p[k + 1 :, POSITIVE].mean() + log_p[k, POSITIVE] + log_p[:k, NEGATIVE].mean()
            gradient_w, *gradient_theta = torch.autograd.grad(-likelihood, [w, *theta])
            opt_w.step([gradient_w])
            opt_theta.step(gradient_theta)
            yield likelihood.detach()

    def _start(self, ensemble: Ensemble, queries: int, generator: torch.Generator) -> tuple[Tensor, MetaVerifier]:
        """Lines 3 and 4: W and the verifier before learning."""
        w = torch.randn(queries, *ensemble.spec.input_shape, generator=generator)
        if self.start == "data":
            rows = torch.randint(len(ensemble.data), (queries,), generator=generator)
            w = unbox(ensemble.data[rows], ensemble.spec, self.valid)
        size = queries * math.prod(ensemble.spec.output_shape)
        robust = self.standardise == "robust"
        verifier = MetaVerifier(size, self.depth, self.width, self.clip if robust else 0.0)
        if robust:
            x = box(w, ensemble.spec, self.valid)
            models = (*ensemble.negatives, ensemble.target, *ensemble.positives)
            answers = torch.stack([model(x).flatten() for model in models])
            low, centre, high = answers.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
            verifier.centre.copy_(centre)
            spread = high - low
            floor = max(1e-3 * spread.mean().item(), 1e-6)  # answers on which all models agree are not blown up
            verifier.scale.copy_(spread.clamp_min(floor))
        return w.requires_grad_(True), verifier


def box(w: Tensor, spec: Spec, valid: int = 0) -> Tensor:
    """Section 4.3: x = tanh(w), mapped affinely from [-1, 1] to the box of the inputs; `valid` for the nearest rows."""
    low, high = spec.bounds()
    x = (high - low) / 2 * w.tanh() + (high + low) / 2
    if not valid:
        return x
    row = spec.nearest(x.detach())
    return row + (x - x.detach())  # exactly the row, with the gradient of x


def unbox(x: Tensor, spec: Spec, valid: int = 0) -> Tensor:
    """Inverse of `box`; inputs on the border are moved a little inside, where tanh still has a slope.

    With `valid` values that are one of two are moved nearly to the middle, so that they can become the other.
    """
    low, high = spec.bounds()
    inner = (2 * x - high - low) / (high - low)
    reach = torch.where(spec.choices(), 0.3, 0.99) if valid else torch.tensor(0.99)
    return inner.clamp(-reach, reach).atanh()


def sample(models: Sequence[Model], count: int, generator: torch.Generator) -> list[Model]:
    """Draw `count` models, uniformly and with replacement."""
    drawn = torch.randint(len(models), (count,), generator=generator)
    return [models[index] for index in drawn.tolist()]
