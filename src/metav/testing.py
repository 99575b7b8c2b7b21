"""A check that authors of schemes run on theirs: see docs/adding-a-scheme.md."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from metav.errors import MetavError
from metav.fingerprint import Fingerprint
from metav.schemes import Ensemble, Scheme
from metav.spec import Model
from metav.verification import query

NEAR = 0.9  # the least rate of the target itself


def check_scheme(scheme: Scheme, ensemble: Ensemble, *, queries: int = 8, seed: int = 0) -> None:
    """Check that a scheme keeps to what all of metav relies on; small models and few queries are enough.

    - What the scheme `needs` is what it uses: it can be used on the ensemble; it asks `per_query` answers for each of
      N; where it needs labels of a suspect, confidences change no rate; where it needs no gradients, none are taken;
      where it does not learn from stolen models, it makes the same fingerprint without any.
    - The queries lie in the box of the inputs.
    - Rates and threshold lie in [0, 1].
    - The target's own rate is at least 0.9. A scheme that learns from suspects may give less after few iterations, as
      long as it is above the threshold.
    - Queries, threshold and rates are a function of `seed`, whatever the state of torch's global random generator.
    - A fingerprint that is saved and loaded gives the same rates.
    - Nothing else changes: parameters and buffers of the models, their modes and `requires_grad`, the examples, the
      global random generators, torch's number of threads, its default type, and whether it records gradients.

    Parameters
    ----------
    scheme
        With few iterations, if it learns: it is constructed up to four times.
    ensemble
        Models are checked for changes where they are modules of torch.
    queries, seed
        N, at least 1, and the seed of the construction.

    Raises
    ------
    AssertionError
        One sentence that says which of these does not hold. Errors of the scheme itself come through as they are.
    """
    needs, spec = scheme.needs, ensemble.spec
    _expect(not needs.lacking(spec), f"a scheme for these models, got one that needs {needs.lacking(spec)}")
    before = dict(_state(ensemble))
    made = scheme.construct(ensemble, queries=queries, seed=seed)
    _same(before, ensemble, "construction")

    shape = (needs.per_query * queries, *spec.input_shape)
    _expect(tuple(made.queries.shape) == shape, f"queries of shape {shape}, got {tuple(made.queries.shape)}")
    low, high = made.queries.min().item(), made.queries.max().item()
    _expect(spec.inside(made.queries), f"queries in the box {spec.box}, got some in [{low:g}, {high:g}]")

    models = (ensemble.target, *ensemble.positives, *ensemble.negatives)
    found = rates(made, models)
    _same(before, ensemble, "verification")
    for rate in found:
        _expect(0 <= rate <= 1, f"rates in [0, 1], got {rate}")
    _expect(0 <= made.threshold <= 1, f"a threshold in [0, 1], got {made.threshold}")
    near = found[0] >= NEAR or (needs.suspects and found[0] > made.threshold)
    also = f", or above the threshold {made.threshold:.3f}" if needs.suspects else ""
    _expect(near, f"a rate of the target itself of at least {NEAR}{also}, got {found[0]:.3f}")
    if needs.answers == "labels":
        plain = [made.scorer.rate(_labels_alone(query(model, made.queries))) for model in models]
        _expect(plain == found, "the same rates from class labels alone, got others")

    with torch.random.fork_rng(devices=[]):
        torch.rand(1)  # another state of the global generator than the first time
        again = scheme.construct(ensemble, queries=queries, seed=seed)
    _expect(_alike(made, again, models), f"the same queries, threshold and rates again with seed {seed}, got others")
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "made.safetensors")
        loaded = Fingerprint.load(Path(folder) / "made.safetensors")
    kept = loaded.threshold == made.threshold and rates(loaded, models) == found
    _expect(kept, "the same rates and threshold after saving and loading, got others")
    spared = {}
    if not needs.gradients:
        blind = replace(ensemble, target=partial(query, ensemble.target))
        spared["from the target's answers alone, without gradients"] = blind
    if not needs.thefts:
        spared["without stolen models"] = replace(ensemble, positives=())
    for words, less in spared.items():
        try:
            same = _alike(made, scheme.construct(less, queries=queries, seed=seed), models)
        except (MetavError, RuntimeError, ValueError, IndexError, ArithmeticError):  # of autograd, or of having none
            same = False
        _expect(same, f"the same queries, threshold and rates {words}, got others or none")


def rates(fingerprint: Fingerprint, models: tuple[Model, ...]) -> list[float]:
    """Rates of some models, in order, straight from the scorer."""
    return [fingerprint.scorer.rate(query(model, fingerprint.queries)) for model in models]


def _alike(one: Fingerprint, other: Fingerprint, models: tuple[Model, ...]) -> bool:
    """Whether two fingerprints have the same queries and threshold, and give models the same rates."""
    same = torch.equal(one.queries, other.queries) and one.threshold == other.threshold
    return same and rates(one, models) == rates(other, models)


def _labels_alone(outputs: Tensor) -> Tensor:
    """Outputs (N, classes) of a model that gives its class probability 1."""
    return one_hot(outputs.argmax(-1), outputs.shape[-1]).to(outputs.dtype)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"expected {what}: correct the scheme.")


def _same(before: dict[str, Any], ensemble: Ensemble, when: str) -> None:
    for name, now in _state(ensemble):
        was = before.get(name)
        equal = torch.equal(was, now) if isinstance(was, Tensor) and isinstance(now, Tensor) else was == now
        _expect(equal, f"{name} unchanged by {when}, got another")


def _state(ensemble: Ensemble) -> Iterator[tuple[str, Any]]:
    """Everything that a scheme must leave alone, by name."""
    yield "torch's random generator", torch.random.get_rng_state()
    yield "numpy's random generator", [str(part) for part in np.random.get_state()]  # noqa: NPY002 (the global one)
    yield "python's random generator", random.getstate()
    yield "torch's number of threads", torch.get_num_threads()
    yield "torch's default type", torch.get_default_dtype()
    yield "torch's recording of gradients", torch.is_grad_enabled()
    yield "the examples", ensemble.data.clone()
    yield "the examples' classes", None if ensemble.labels is None else ensemble.labels.clone()
    sides = {"positive": ensemble.positives, "negative": ensemble.negatives}
    models = {"the target": ensemble.target}
    models |= {f"{side} {index}": model for side, all_ in sides.items() for index, model in enumerate(all_)}
    for name, model in models.items():
        if isinstance(model, nn.Module):
            yield from _module(name, model)


def _module(name: str, model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield f"train or eval mode of {name}", [module.training for module in model.modules()]
    for key, value in model.named_parameters():
        yield f"requires_grad of {key} of {name}", value.requires_grad
        yield f"gradient of {key} of {name}", None if value.grad is None else value.grad.clone()
        yield f"parameter {key} of {name}", value.detach().clone()
    for key, buffer in model.named_buffers():
        yield f"buffer {key} of {name}", buffer.clone()
