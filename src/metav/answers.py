"""What a suspect answered, as the fingerprint's scorer takes it: logits, percentages, labels and bytes are converted.

Whatever is converted is said; what cannot be understood without guessing is refused.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot, softmax

from metav.errors import OrderError, SuspectError
from metav.spec import Spec

ROUNDED = 0.02  # by how much each of a few rounded probabilities may let their sum miss 1
MISSED = 0.1  # by how much a sum may miss 1 at most
SPILL = 0.1  # how far one noisy or coarsely rounded probability may lie outside [0, 1]
ASTRAY = 0.35  # how far the sum of one answer of such probabilities may miss 1; on average by MISSED
MOST = 50.0  # percent: rows that sum to more on average may be percentages
BYTES = 127.0  # a highest value of all images beyond which they are in 0..255
ALIKE, UNLIKE = 0.8, 0.3  # correlations with the target of answers in another order, and in the one given
VARIED = 0.05  # standard deviation of the largest probability, below which it tells little


def understand(raw: Tensor, spec: Spec, count: int, reference: Tensor | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """Outputs (count, *spec.output_shape), float32, and one remark for each conversion.

    Parameters
    ----------
    raw
        Answers (count, ...) as they came.
    spec
        The interface of the target; `output` says what is expected.
    count
        The number of queries.
    reference
        The target's answers, by which another order of the classes, or of a regression's values, is noticed; None to
        trust the order.

    Raises
    ------
    SuspectError
        Answers of another number or shape, not finite, or of no kind that is known; or in another order of classes or
        values.
    """
    values = usable(raw, count)
    if spec.output == "probabilities":
        outputs, remarks = _probabilities(values, spec.output_shape[0])
        remarks = [*remarks, *_sorted(outputs, reference)]
        if reference is not None:
            _check_order(outputs, reference, "classes")
    elif spec.output == "images":
        outputs, remarks = _images(_shaped(values, spec))
    else:
        outputs, remarks = _shaped(values, spec), []
        if reference is not None and len(spec.output_shape) == 1:
            _check_order(outputs, reference, "values")
    return outputs.to(torch.float32), tuple(remarks)


def usable(raw: Tensor, count: int) -> Tensor:
    """Answers as they came, in float64.

    Raises
    ------
    SuspectError
        They are not `count`, or empty, or complex, or not finite.
    """
    if raw.ndim == 0 or len(raw) != count:
        got = "one number" if raw.ndim == 0 else f"{len(raw)}"
        raise SuspectError(
            f"expected {count} answers, one a query, got {got}: check that the suspect answers each query once, with "
            "the batch as the first axis."
        )
    if not raw.numel():
        raise SuspectError(f"expected an answer to each query, got empty ones, {tuple(raw.shape[1:])}: ask it by hand.")
    if raw.is_complex():
        raise SuspectError(f"expected real answers, got {raw.dtype}: ask for their real part, or for their size.")
    values = raw.detach().to("cpu", torch.float64)
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).reshape(count, -1).any(1).sum())
        raise SuspectError(
            f"expected finite answers, got NaN or infinity in {bad} of {count}: look at what the suspect "
            "answers, and whether each name in --answer is there."
        )
    return values


def _shaped(values: Tensor, spec: Spec) -> Tensor:
    """The answers in the shape of the outputs: axes of length 1 come and go, channels last are moved to the front."""
    shape = spec.output_shape
    given = tuple(values.shape[1:])
    if given == shape:
        return values
    if len(shape) == 3 and given == (*shape[1:], shape[0]):
        return values.movedim(-1, 1)
    if [size for size in given if size > 1] == [size for size in shape if size > 1]:
        return values.reshape(len(values), *shape)
    raise SuspectError(
        f"expected answers of shape {shape}, got {given}: check that the suspect does the target's task."
    )


def _probabilities(values: Tensor, classes: int) -> tuple[Tensor, list[str]]:
    """Probabilities (n, classes) of whatever tells of classes."""
    flat = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
    if flat.shape[1] == 1 and classes > 1:
        labels = flat[:, 0].round().long()
        whole = (labels == flat[:, 0]).all()
        if not whole or labels.min() < 0 or labels.max() >= classes:
            step = "check that the suspect does the target's task"
            if whole and labels.min() >= 1 and labels.max() == classes:
                step = "if its classes are numbered from 1, take 1 off on their way"
            raise SuspectError(
                f"expected {classes} probabilities or a class from 0 to {classes - 1} a query, got one number in "
                f"[{flat.min():g}, {flat.max():g}]: {step}."
            )
        return one_hot(labels, classes).double(), ["labels only: each was taken as a probability of 1"]
    if flat.shape[1] != classes:
        raise SuspectError(
            f"expected {classes} probabilities a query, got {flat.shape[1]} numbers: check that the suspect tells the "
            "same classes apart."
        )
    low, high, sums = flat.min(), flat.max(), flat.sum(1)
    slack = min(1e-3 + ROUNDED * classes, MISSED)
    if (remarks := _distributions(flat, slack)) is not None:
        return flat, remarks
    missed = (sums - 1).abs()
    if low >= -SPILL and high <= 1 + SPILL and missed.max() <= ASTRAY and missed.mean() <= MISSED:
        flat = flat.clamp(min=0)
        return flat / flat.sum(1, keepdim=True), ["noisy or rounded probabilities: cut off at 0, and made to sum to 1"]
    if sums.mean() > MOST and (remarks := _distributions(flat / 100, slack)) is not None:
        return flat / 100, ["percentages: divided by 100", *remarks]
    if high <= 1e-4 and (flat.exp().sum(1) - 1).abs().max() <= slack:
        return flat.exp(), ["logarithms of probabilities: exponentiated"]
    if low >= -1e-4 and ((-flat).exp().sum(1) - 1).abs().max() <= slack:
        return (-flat).exp(), ["logarithms of probabilities with their sign turned: exponentiated"]
    spread = flat.shape[1] if (flat == flat.round()).all() else ROUNDED * sums.mean()  # rounded to whole numbers
    one_sum = sums.min() > 1 + slack and sums.max() - sums.min() <= spread
    if low >= 0 and one_sum and (flat != flat[0]).any():  # a constant may be anything
        raise SuspectError(
            f"expected probabilities that sum to 1, got numbers of which those of each query sum to {sums.mean():.4g}: "
            "they are shares of something else; divide them by that on their way."
        )
    if low < 0 or high > 1:
        return softmax(flat, 1), ["logits: softmax was applied"]
    raise SuspectError(
        f"expected probabilities that sum to 1, got sums from {sums.min():.3g} to {sums.max():.3g}: these are scores "
        "of another kind, and no distribution over the classes."
    )


def _distributions(flat: Tensor, slack: float) -> list[str] | None:
    """Remarks if rows (n, classes) are probabilities whose sums miss 1 by `slack` at most; None if not.

    Where each row has a 0 or sums to 1, those of some classes may be left out, but not those of the likeliest, whose
    probability is at least 1 / classes, or half of that when it was rounded.
    """
    low, high, sums = flat.min(), flat.max(), flat.sum(1)
    if low < -1e-4 or high > 1 + 1e-4 or sums.max() > 1 + slack:
        return None
    if sums.min() >= 1 - slack:
        return []
    if sums.min() >= 0.5 / flat.shape[1] and ((flat == 0).any(1) | (sums > 0.98)).all():
        return ["some classes without a probability: they were taken as 0"]
    return None


def _images(values: Tensor) -> tuple[Tensor, list[str]]:
    """Images in [0, 1] of images in [0, 255] or [-1, 1]."""
    low, high = values.min(), values.max()
    if low >= -1e-3 and high <= 1 + 1e-3:
        return values.clamp(0, 1), []
    if low >= 0 and BYTES < high <= 255:
        return values / 255, ["pixels in 0..255: divided by 255"]
    if low >= -1 - 1e-3 and high <= 1 + 1e-3:
        return ((values + 1) / 2).clamp(0, 1), ["pixels in [-1, 1]: mapped to [0, 1]"]
    raise SuspectError(
        f"expected images in [0, 1], [-1, 1] or [0, 255], got values in [{low:g}, {high:g}]: check what it generates."
    )


def _sorted(outputs: Tensor, reference: Tensor | None) -> list[str]:
    """Refuse probabilities that fall from class to class in each answer: which class each is of has been lost.

    A remark where there are two classes, the first of which a poor model may well prefer in all answers.
    """
    if reference is not None and _falling(reference).all():
        return []
    apart = (outputs.diff(dim=1) != 0).all(1)  # of rounded ones many are equal
    varied = outputs[:, 0].std(correction=0) > VARIED  # not of a model that answers nearly the same to all
    if not varied or not _falling(outputs).all() or apart.sum() <= len(outputs) / 2:
        return []
    if outputs.shape[1] == 2:
        return ["the first of two classes is the likelier in each answer: if the API sorts them, ask for them by class"]
    raise SuspectError(
        "expected probabilities in one order of classes, got the largest first in each answer: ask for them by "
        "class, for example with sort_by(@, &label) in --answer."
    )


def _falling(values: Tensor) -> Tensor:
    return (values.diff(dim=1) <= 0).all(1)


def _check_order(outputs: Tensor, reference: Tensor, what: str) -> None:
    """Refuse answers (N, values) that are unlike the target's in the order given, and much like them in another.

    That is judged by the values that another order moves: those that stay say nothing against it.
    """
    ours, theirs = (_standard(each.double()) for each in (reference, outputs))
    correlation = ours.T @ theirs / len(ours)  # (classes of the target, classes of the suspect)
    rows, columns = linear_sum_assignment(-correlation.numpy())
    seen = ours.abs().sum(0) > 0  # values that the target's answers tell of at all
    moved = seen & (torch.from_numpy(columns) != torch.arange(len(seen)))
    if moved.sum() < 2 or (len(seen) == 2 and what == "classes"):  # of two it is just the opposite answer
        return
    given = float(correlation.diagonal()[moved].mean())
    order = correlation[rows, columns]
    best = float(order[moved].mean())
    if given < UNLIKE and best > ALIKE and order[seen].mean() > ALIKE:
        raise OrderError(
            f"expected the target's order of {what}, got answers that agree with it in another (correlation "
            f"{best:.2f} instead of {given:.2f})",
            columns.tolist(),
        )


def _standard(values: Tensor) -> Tensor:
    deviation = values.std(0, correction=0)
    return (values - values.mean(0)) / torch.where(deviation > 1e-9, deviation, torch.inf)
