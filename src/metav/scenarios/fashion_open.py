"""Fashion's open world: models of kinds that neither zoo nor cohort holds, for tests alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from metav.adversarial import PENALTY, Gan
from metav.engine import seeded
from metav.optim import Adam
from metav.scenarios.base import Subject, Suspect, mixtures, stolen
from metav.scenarios.fashion_data import SIDE
from metav.scenarios.fashion_nets import LATENT, dcgan
from metav.spec import Model
from metav.stacks import in_batches
from metav.training import Part

PIXELS = SIDE * SIDE


def upsampling() -> Gan:
    """Convolutions between enlargements (Odena et al., Deconvolution and Checkerboard Artifacts, 2016)."""
    generator = nn.Sequential(
        nn.Linear(LATENT, 64 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (64, 7, 7)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(64, 48, 3, 1, 1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(48, 24, 3, 1, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 1, 3, 1, 1),
        nn.Sigmoid(),
    )
    return Gan(generator, dcgan().discriminator)


def exponential() -> Gan:
    """A perceptron with ELU activations, and a critic with leaky ReLUs."""
    layers: list[nn.Module] = []
    for narrow, wide in ((LATENT, 200), (200, 400)):
        layers += [nn.Linear(narrow, wide), nn.ELU()]
    generator = nn.Sequential(*layers, nn.Linear(400, PIXELS), nn.Sigmoid(), nn.Unflatten(1, (1, SIDE, SIDE)))
    critic = (nn.Linear(PIXELS, 400), nn.LeakyReLU(0.2), nn.Linear(400, 200), nn.LeakyReLU(0.2), nn.Linear(200, 1))
    return Gan(generator, nn.Sequential(nn.Flatten(), *critic), penalty=PENALTY)


def wide() -> Gan:
    """A perceptron with one hidden layer, and that critic."""
    generator = nn.Sequential(
        nn.Linear(LATENT, 1200), nn.SiLU(), nn.Linear(1200, PIXELS), nn.Sigmoid(), nn.Unflatten(1, (1, SIDE, SIDE))
    )
    return Gan(generator, exponential().discriminator, penalty=PENALTY)


STRANGE: dict[str, Callable[[], nn.Module]] = {"upsampling": upsampling, "exponential": exponential, "wide": wide}

TUNING = "batch=32,seed=1"
# Independent networks: family, architecture, epochs and rate; each on the owner's and on public images.
NETWORKS = [
    ("other network", "upsampling", "5ep,lr=0.001"),
    ("other network", "upsampling", "5ep,lr=0.0005"),
    ("other network", "exponential", "6ep,lr=0.001"),
    ("other network", "exponential", "6ep,lr=0.0005"),
    ("other training", "XL", "3ep,lr=0.001"),
    ("other training", "XL", "8ep,lr=0.0005"),
    ("other training", "S", "4ep,lr=0.002"),
    ("other training", "M", "3ep,lr=0.0005"),
    ("other network", "wide", "6ep,lr=0.001"),
]
THIRD_PARTY = ["S", "M", "exponential", "upsampling"]  # students of a DCGAN that is not the target

# Thefts: family, links after the target. Students are of networks that neither zoo nor cohort steals into.
THEFTS = [
    *(
        ("extraction", f"extract(public,{epochs}ep,lr=0.001,{TUNING},student={student})")
        for student, epochs in (("upsampling", 4), ("upsampling", 1), ("exponential", 5), ("wide", 5), ("wide", 1))
    ),
    ("other fine-tuning", f"ftal(public,4ep,lr=0.0003,{TUNING})"),
    ("other fine-tuning", f"ftal(public,2ep,lr=0.002,{TUNING})"),
    ("pruned and tuned", f"wp(0.5)>ftal(public,1ep,lr=0.001,{TUNING})"),
    ("pruned and tuned", f"wp(0.8)>ftal(public,2ep,lr=0.001,{TUNING})"),
    ("fewer bits", "quantise(8)"),
    ("fewer bits", "quantise(5)"),
    ("weight noise", "jitter(0.05,seed=1)"),
    ("weight noise", f"jitter(0.2,seed=1)>ftal(public,1ep,lr=0.001,{TUNING})"),
    ("changed images", "rounded(0.00392157)"),
    ("changed images", "rounded(0.1)"),
    ("changed images", "noisy(0.05,seed=1)>clipped(low=0,high=1)"),
    ("changed images", "noisy(0.2,seed=1)>clipped(low=0,high=1)"),
    ("changed images", "rescaled(scale=0.8,shift=0.1)"),
    ("changed images", "clipped(low=0.1,high=0.8)"),
]


def suspects() -> Iterator[Suspect]:
    """The open world's networks, by lineage."""
    for index, (family, architecture, settings) in enumerate(NETWORKS):
        for data in ("own", "public"):
            lineage = f"{architecture}({data},{settings},batch=32,seed={500 + index})"
            yield Suspect(lineage=lineage, family=family, positive=False)
    for index, student in enumerate(THIRD_PARTY):
        links = f"extract(public,4ep,lr=0.001,batch=32,seed={540 + index},student={student})"
        teacher = f"XL(own,6ep,lr=0.001,batch=32,seed={540 + index // 2})"
        yield Suspect(lineage=f"{teacher}>{links}", family="third party's student", positive=False)
    yield from stolen(THEFTS)


def outsiders(target: Model, part: Callable[[str], Part], most: int | None = None) -> Iterator[Subject]:
    """Generators that no GAN makes: autoencoders, components, memory; and thefts without a network.

    They are fitted anew by each call; `most` limits the kinds of each sort.
    """
    made = _generators()
    for name, make in islice(made.items(), most):
        for data in ("own", "public"):
            yield Subject(name=f"{name}({data})", family="no GAN", positive=False, model=make(part(data).y))
    public = part("public")
    mean = public.y.mean(0)
    nothing: dict[str, Model] = {"mean image": partial(_always, mean), "noise": _noise}
    for name, model in nothing.items():
        yield Subject(name=name, family="no garments", positive=False, model=model)
    with torch.no_grad():
        answers = in_batches(target, public.x, 512)
    for name, model in (("linear", _linear(public.x, answers)), ("nearest code", _nearest(public.x, answers))):
        yield Subject(name=f"{name} of answers", family="extraction, no GAN", positive=True, model=model)
    other = made["components, 30"](public.y)
    yield from mixtures(target, other)


def _always(image: Tensor, z: Tensor) -> Tensor:
    return image.expand(len(z), *image.shape)


def _noise(z: Tensor) -> Tensor:
    """Images of noise, a function of the code."""
    drawn = torch.randn(LATENT, PIXELS, generator=torch.Generator().manual_seed(0))
    return (z @ drawn / 10).sigmoid().reshape(-1, 1, SIDE, SIDE)


def _generators() -> Mapping[str, Callable[[Tensor], Model]]:
    """Ways to make a generator of images."""
    return {
        "components, 30": partial(components, 30),
        "components, 10": partial(components, 10),
        "components, 100": partial(components, 100),
        **{
            f"autoencoder, {size}, {width}": partial(autoencoder, size, width)
            for size in (10, 20, 50)
            for width in (128, 256)
        },
        "memory, cosine": partial(memory, False),
        "memory, first codes": partial(memory, True),
    }


def components(size: int, images: Tensor) -> Model:
    """Principal components, weighted by the first `size` values of a code."""
    flat = images.flatten(1)
    mean = flat.mean(0)
    with seeded(size):  # it starts from random directions
        _, scale, axes = torch.pca_lowrank(flat - mean, q=size, center=False, niter=4)
    mixed = (scale / len(flat) ** 0.5)[:, None] * axes.T
    return lambda z: (mean + z[:, :size] @ mixed).clamp(0, 1).reshape(-1, 1, SIDE, SIDE)


def autoencoder(size: int, width: int, images: Tensor) -> Model:
    """The decoder of a variational autoencoder (Kingma and Welling, ICLR 2014) on the first `size` values of a code."""
    x = images.flatten(1)
    with seeded(size * width):
        encoder = nn.Sequential(nn.Linear(PIXELS, width), nn.Tanh(), nn.Linear(width, 2 * size))
        decoder = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, PIXELS))
        optimiser = Adam([*encoder.parameters(), *decoder.parameters()], 0.002)
        for _ in range(4):  # epochs
            for batch in torch.randperm(len(x)).split(64):
                mean, log = encoder(x[batch]).chunk(2, 1)
                found = decoder(mean + (log / 2).exp() * torch.randn_like(mean))
                divergence = (mean.square() + log.exp() - log - 1).sum(1) / 2
                missed = nn.functional.binary_cross_entropy_with_logits(found, x[batch], reduction="none").sum(1)
                optimiser.step(torch.autograd.grad((missed + divergence).mean(), optimiser.parameters))
    decoder.requires_grad_(False)
    return lambda z: decoder(z[:, :size]).sigmoid().reshape(-1, 1, SIDE, SIDE)


def memory(first: bool, images: Tensor) -> Model:
    """Gives the image whose own random code is nearest in angle, by all of a code or its `first` half."""
    own = torch.randn(len(images), LATENT, generator=torch.Generator().manual_seed(int(first)))
    length = LATENT // 2 if first else LATENT
    directions = nn.functional.normalize(own[:, :length], dim=1)
    return lambda z: images[(z[:, :length] @ directions.T).argmax(1)]


def _linear(codes: Tensor, answers: Tensor) -> Model:
    """Least squares from codes to images."""
    ones = torch.cat([codes, torch.ones(len(codes), 1)], 1)
    weights = torch.linalg.lstsq(ones, answers.flatten(1)).solution
    return lambda z: (torch.cat([z, torch.ones(len(z), 1)], 1) @ weights).clamp(0, 1).reshape(-1, 1, SIDE, SIDE)


def _nearest(codes: Tensor, answers: Tensor) -> Model:
    """The mean answer to the five nearest codes."""
    return lambda z: answers[torch.cdist(z, codes).topk(5, largest=False).indices].mean(1)
