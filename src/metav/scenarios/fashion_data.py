"""FashionMNIST from the IDX files it was published as, and digits as data that have nothing to do with it."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from metav.errors import IntegrityError, StorageError, missing_extra
from metav.scenarios import data

SIDE = 28
ORDER_SEED = 0
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = {  # split -> files of images and labels, number of examples
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}

SHA256 = {  # of the files unpacked; MNIST's own have the same names and sizes
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` examples of the split `train` or `test`: images (count, 1, 28, 28) in [0, 1], labels from 0 to 9.

    They are the first ones in a random order that never changes: a fair sample, and part of any larger one.

    Raises
    ------
    StorageError, IntegrityError
        The data set is not there and cannot be downloaded; a file of it is damaged.
    """
    folder = fetched()
    images, labels, total = FILES[split]
    chosen = np.random.default_rng(ORDER_SEED).permutation(total)[:count]
    x = read_idx(folder, images, (total, SIDE, SIDE))[chosen, None] / np.float32(255)
    y = read_idx(folder, labels, (total,))[chosen].astype(np.int64)
    return torch.from_numpy(x), torch.from_numpy(y)


def read_idx(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read one IDX file of bytes, compressed or not: a magic number, the sizes of its axes, the values.

    Raises
    ------
    IntegrityError
        The file is damaged, of another shape, or has the name of one of FashionMNIST's and another content.
    """
    path = data.file(folder, name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *sizes = struct.unpack_from(f">{1 + len(shape)}I", content)
        values = np.frombuffer(content, np.uint8, offset=4 * (1 + len(shape)))
        if magic != 0x800 + len(shape) or tuple(sizes) != shape or len(values) != np.prod(shape):
            raise ValueError(f"{len(values)} bytes with axes {tuple(sizes)}")
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256.get(name, digest):
            raise ValueError(f"another one, with SHA-256 {digest[:12]} instead of {SHA256[name][:12]}")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise IntegrityError(
            f"expected FashionMNIST's file of bytes {shape} at {str(path)!r}, got {error}: "
            "delete it and fetch it again."
        ) from error
    return values.reshape(shape)


def digits() -> Tensor:
    """Return scikit-learn's 1,797 hand-written digits, 8 x 8, enlarged to images (n, 1, 28, 28) in [0, 1].

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn for the irrelevant data", "no module 'sklearn'", "fashion") from error
    small = torch.from_numpy(load_digits().images.astype(np.float32) / 16)  # its grey levels go from 0 to 16
    return interpolate(small[:, None], size=SIDE, mode="bilinear")


def fetched() -> Path:
    """Return the folder of FashionMNIST's files; download them if need be.

    Raises
    ------
    UsageError, StorageError
        METAV_DATA is no folder; the files are nowhere and cannot be downloaded.
    """
    names = [name for *names, _ in FILES.values() for name in names]
    below = ["fashion-mnist", "FashionMNIST/raw"]
    folder = data.find(names, below, also=[DEBIAN])
    if folder is not None:
        return folder
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(data.cache()), download=True)
    except (ImportError, OSError, RuntimeError) as error:
        given = os.environ.get("METAV_DATA")
        raise StorageError(
            f"expected FashionMNIST in --data or METAV_DATA ({given or 'not set'}), {data.SHARED} or {DEBIAN}, got "
            f"none, and no download ({error}): run apt-get install dataset-fashion-mnist, give the folder of its four "
            "IDX files with --data or METAV_DATA, or pip install torchvision and go online."
        ) from error
    return data.cache() / below[1]
