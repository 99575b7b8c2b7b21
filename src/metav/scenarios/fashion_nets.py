"""Networks of the Fashion scenario: the DCGAN of Table 1, the perceptrons of Table 4, and a judge of images.

MetaV, section 5. Codes z are (n, 100), images (n, 1, 28, 28) in [0, 1].
"""

from __future__ import annotations

from torch import Tensor, nn

from metav.adversarial import PENALTY, Gan
from metav.scenarios.fashion_data import SIDE

LATENT = 100
FEATURES = 64  # of the judge: enough to tell garments apart, few enough for a covariance from 1,000 images


class Affine(nn.Module):
    """x -> scale * x + shift; without parameters."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of any shape."""
        return self.scale * x + self.shift


def dcgan() -> Gan:
    """Table 1, paddings as printed: 1 -> 4 -> 7 -> 14 -> 28 pixels.

    The tanh is mapped to [0, 1], as the sigmoids of the students are, and the discriminator maps images back to
    [-1, 1]. Its final sigmoid is in the loss.
    """
    generator = nn.Sequential(
        nn.Unflatten(1, (LATENT, 1, 1)),
        nn.ConvTranspose2d(LATENT, 128, 4, 1, 0, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 3, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
        Affine(0.5, 0.5),
    )
    discriminator = nn.Sequential(
        Affine(2.0, -1.0),
        nn.Conv2d(1, 32, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 1, 4, 1, 0, bias=False),
        nn.Flatten(),
    )
    return Gan(generator, discriminator)


def perceptrons(s: int) -> Gan:
    """Table 4 with k = 2s; its Linear(100, 128) is read as Linear(100, 64k), which is equal for s = 1."""
    k = 2 * s
    generator = nn.Sequential(
        nn.Linear(LATENT, 64 * k),
        nn.ReLU(),
        nn.Linear(64 * k, 128 * k),
        nn.ReLU(),
        nn.Linear(128 * k, 256 * k),
        nn.ReLU(),
        nn.Linear(256 * k, SIDE * SIDE),
        nn.Sigmoid(),
        nn.Unflatten(1, (1, SIDE, SIDE)),
    )
    discriminator = nn.Sequential(
        Affine(2.0, -1.0),
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, 256 * k),
        nn.ReLU(),
        nn.Linear(256 * k, 128 * k),
        nn.ReLU(),
        nn.Linear(128 * k, 64 * k),
        nn.ReLU(),
        nn.Linear(64 * k, 1),
    )
    return Gan(generator, discriminator, penalty=PENALTY)


def classifier() -> nn.Sequential:
    """A small network from images to logits of ten garments; all but its last layer give the features."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, FEATURES),
        nn.ReLU(),
        nn.Linear(FEATURES, 10),
    )
