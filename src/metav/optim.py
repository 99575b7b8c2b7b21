"""Adam and SGD without the optimiser classes of torch.

Their first use imports the compiler: 1 s and 150 MB in each process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with torch's defaults and its fused kernel.

    Parameters
    ----------
    parameters
        The tensors to change, in place.
    lr
        Learning rate, above 0.
    betas
        Decay rates of the two moments, each in [0, 1).
    decay
        Weight decay: a step takes its share lr x decay of each weight (AdamW, Loshchilov and Hutter, ICLR 2019).
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas, self.decay = lr, betas, decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    def state(self, prefix: str = "adam") -> dict[str, Tensor]:
        """The tensors that `step` changes besides the parameters, by name."""
        kinds = {"mean": self.means, "square": self.squares, "step": self.steps}
        return {f"{prefix}.{kind}.{index}": each for kind, all_ in kinds.items() for index, each in enumerate(all_)}

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Change the parameters by one step down their `gradients`."""
        # the fused kernel reads plain memory, and copies what is laid out otherwise (channels last): it is given all
        # with their axes in the order in which the parameters are stored
        orders = [sorted(range(p.dim()), key=p.stride, reverse=True) for p in self.parameters]

        def stored(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [tensor.permute(order) for tensor, order in zip(tensors, orders, strict=True)]

        with torch.no_grad():
            adam(
                stored(self.parameters),
                [gradient.contiguous() for gradient in stored(gradients)],
                stored(self.means),
                stored(self.squares),
                [],
                self.steps,
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=self.lr,
                weight_decay=self.decay,
                decoupled_weight_decay=self.decay > 0,
                eps=1e-8,
                maximize=False,
            )


class SGD:
    """Stochastic gradient descent with momentum 0.9, otherwise as `Adam`."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.lr, self.decay = lr, decay
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    def state(self, prefix: str = "sgd") -> dict[str, Tensor]:
        """The tensors that `step` changes besides the parameters, by name."""
        return {f"{prefix}.velocity.{index}": each for index, each in enumerate(self.velocities)}

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Change the parameters by one step down their `gradients`."""
        with torch.no_grad():
            for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient)
                parameter.mul_(1 - self.lr * self.decay).sub_(self.lr * velocity)


OPTIMISERS = {"adam": Adam, "sgd": SGD}
