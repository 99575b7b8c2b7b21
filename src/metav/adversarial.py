"""Adversarial training of generators (GANs), and their distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from metav.engine import seeded
from metav.errors import UsageError
from metav.optim import Adam
from metav.suspects.base import Draft, Training
from metav.training import Part, mini_batches, nonzero_masks, train_mode

PENALTY = 0.5  # R1: without it perceptrons collapse to noise in a few shapes; batch norm spares the DCGAN from that


class Gan(nn.Module):
    """A generator and the discriminator that it is trained against; to its users it is the generator alone.

    The discriminator stays with the generator so that training can go on (fine-tuning). It returns logits (n, 1), high
    for real images; `penalty` is the weight of the gradient penalty that it needs, 0 for none.
    """

    answers: ClassVar[str] = "generator"  # what is pruned, reset and tuned: metav.suspects.base.answering

    def __init__(self, generator: nn.Module, discriminator: nn.Module, penalty: float = 0.0) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.penalty = penalty

    def forward(self, z: Tensor) -> Tensor:
        """Images (n, 1, height, width) in [0, 1] from codes (n, length)."""
        images: Tensor = self.generator(z)
        return images


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all trainings share.

    `betas` are Adam's. `average` in [0, 1) is the decay of the running mean of the generator's weights, which is what
    training returns. `imitation` weighs a student's squared error of pixels against its adversarial loss.
    """

    betas: tuple[float, float]
    average: float
    imitation: float


# Adam with the DCGAN's beta_1 (Radford et al., ICLR 2016), and the mean of the last hundred steps.
RECIPE = Recipe(betas=(0.5, 0.999), average=0.99, imitation=30.0)

Codes = Callable[[Part, int, torch.Generator], Tensor]
"""(part, n, random generator) -> n codes to train with."""


def normal(part: Part, count: int, generator: torch.Generator) -> Tensor:
    """Codes from N(0, 1)."""
    return torch.randn(count, *part.x.shape[1:], generator=generator)


def given(part: Part, count: int, generator: torch.Generator) -> Tensor:
    """Codes among those of the part."""
    return part.x[torch.randint(len(part.x), (count,), generator=generator)]


def fit(drafts: Sequence[Draft], parts: Mapping[str, Part], codes: Codes = normal) -> None:
    """Train each draft's `Gan` in place on the images `y` of its part, then freeze it in eval mode.

    An extraction (a draft that is `unlabelled`) imitates its teacher and sees no images.

    Raises
    ------
    UsageError
        A training asks for another loss or optimiser, or for adversarial examples: GANs have their own.
    """
    for draft in drafts:
        if (training := draft.training) is not None:
            if training.loss or training.optimiser != "adam" or training.adversarial or training.decay:
                raise UsageError(
                    "expected a GAN's own losses and optimiser, got a lineage that names others: leave them out."
                )
            _fit_one(draft, training, parts[training.data], codes)
        draft.model.eval().requires_grad_(False)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of the logits (n, 1) of real and of generated images (Goodfellow et al., 2014, equation 1)."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)), from logits (n, 1): the form that does not saturate (Goodfellow et al., 2014, section 3)."""
    return softplus(-fake).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of dD/dx at real images: R1 (Mescheder et al., ICML 2018, equation 9)."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.flatten(1).square().sum(1).mean() / 2


def _fit_one(draft: Draft, training: Training, part: Part, codes: Codes) -> None:
    gan = cast(Gan, draft.model)
    # convolutions are a fifth faster with channels last
    gan.to(memory_format=torch.channels_last)
    gan.requires_grad_(False)
    named = dict(gan.named_parameters())
    learnt = {name: named[name].requires_grad_(True) for name in draft.trainable}
    masks = nonzero_masks({name: learnt[name] for name in draft.sparse})
    critic = Adam(gan.discriminator.requires_grad_(True).parameters(), training.lr, RECIPE.betas)
    train_mode(gan)
    maker = Adam(learnt.values(), training.lr, RECIPE.betas)
    mean = _Mean(gan.generator, RECIPE.average)
    generator = torch.Generator().manual_seed(training.seed)
    own = {**critic.state("critic"), **maker.state("maker"), **mean.state(), "random": generator.get_state()}
    live = {**gan.state_dict(), **own}
    done = draft.checkpoint.resume(live) if draft.checkpoint else 0
    generator.set_state(live["random"])
    for epoch in range(done, training.until or training.epochs):
        with seeded(training.seed * training.epochs + epoch):  # of dropout
            for batch in mini_batches(torch.randperm(len(part.y), generator=generator), training.batch, 0):
                z = codes(part, len(batch), generator).to(part.y.device)
                fake = gan.generator(z)
                loss = torch.zeros(())
                if not draft.unlabelled:
                    judged = _discriminator_loss(gan, part.y[batch], fake.detach())
                    critic.step(torch.autograd.grad(judged, critic.parameters))
                    loss = generator_loss(gan.discriminator(fake))
                if draft.teacher is not None:
                    loss = loss + RECIPE.imitation * _imitation_loss(draft.teacher, z, fake)
                maker.step(torch.autograd.grad(loss, maker.parameters))
                with torch.no_grad():
                    for name, mask in masks.items():
                        learnt[name] *= mask
                mean.update()
        if draft.checkpoint:
            live["random"].copy_(generator.get_state())
            draft.checkpoint.save(live, epoch + 1)
        draft.keep(epoch + 1, {**gan.state_dict(), **mean.named("generator")})
    mean.copy_back()
    gan.to(memory_format=torch.contiguous_format)


def _discriminator_loss(gan: Gan, x: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator on real and generated images, with its penalty."""
    x = x.requires_grad_(gan.penalty > 0)
    real = gan.discriminator(x)
    loss = discriminator_loss(real, gan.discriminator(fake))
    return loss + gan.penalty * gradient_penalty(real, x) if gan.penalty else loss


def _imitation_loss(teacher: nn.Module, z: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of pixels (Aguinaldo et al., 2019), added to the adversarial loss on public data."""
    with torch.no_grad():
        answers = teacher(z)
    return mse_loss(images, answers)


class _Mean:
    """Running mean of a module's weights and statistics; its memory is short at first, so the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        named = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        self.names, self.now = list(named), list(named.values())
        self.mean = [tensor.clone() for tensor in self.now]
        self.steps = torch.zeros((), dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        """The tensors that `update` changes, by name."""
        return {"mean.steps": self.steps, **{f"mean.{index}": each for index, each in enumerate(self.mean)}}

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The mean, by the names that the tensors have below `prefix`."""
        return {f"{prefix}.{name}": each for name, each in zip(self.names, self.mean, strict=True)}

    def update(self) -> None:
        self.steps += 1
        steps = int(self.steps)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for mean, now in zip(self.mean, self.now, strict=True):
            mean.lerp_(now, 1 - decay)

    def copy_back(self) -> None:
        for mean, now in zip(self.mean, self.now, strict=True):
            now.copy_(mean)
