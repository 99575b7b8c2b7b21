"""DermaMNIST: 10,015 dermatoscopic images of pigmented skin lesions in seven classes, 28 x 28 pixels.

HAM10000 (Tschandl et al., 2018) as MedMNIST v2 publishes it (Yang et al., 2023), CC BY-NC 4.0.
"""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from metav.errors import IntegrityError, StorageError
from metav.scenarios import data
from metav.scenarios.fashion_data import fashion_mnist
from metav.training import Part

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FILE = "dermamnist.npz"
URL = "https://zenodo.org/records/10519652/files/dermamnist.npz?download=1"
OFFICIAL_MD5 = "0744692d530f8e62ec473284d019b0c7"
# The same images and split, made again from HAM10000; the training images come in another order.
REBUILT_SHA256 = "0869db2815212ca3f2eaa13544b5b8289c45271fdf4ad66b4db777243c1223fb"
SIZES = {"train": 7007, "val": 1003, "test": 2005}


def dermamnist(split: str) -> Part:
    """Return a split, `train`, `val` or `test`: images (n, 3, 28, 28) in [-1, 1], classes (n,) as in `CLASSES`.

    Raises
    ------
    StorageError, IntegrityError
        The data set is not there and cannot be downloaded; its file is neither the official nor the rebuilt one.
    """
    path, _ = fetched()
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise IntegrityError(
            f"expected DermaMNIST in {str(path)!r}, got {error}: delete it and fetch it again."
        ) from error
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    return Part(x=x, y=torch.from_numpy(labels[:, 0].astype(np.int64)))


def fetched() -> tuple[Path, str]:
    """Return the path of DermaMNIST's file and which one it is: `official` or `rebuilt`; download it if need be.

    Raises
    ------
    UsageError, StorageError, IntegrityError
        METAV_DATA is no folder; the file is nowhere and cannot be downloaded; it is another file.
    """
    folder = data.find([FILE], ["dermamnist"])
    path = (_download() if folder is None else folder) / FILE
    md5 = data.digest(path, "md5")
    if md5 == OFFICIAL_MD5:
        return path, "official"
    if data.digest(path, "sha256") == REBUILT_SHA256:
        return path, "rebuilt"
    raise IntegrityError(
        f"expected DermaMNIST with MD5 {OFFICIAL_MD5} in {str(path)!r}, got a file with MD5 {md5}: "
        "delete it and fetch it again."
    )


def garments(count: int) -> Part:
    """Return `count` images of FashionMNIST's first seven classes, in the form of `dermamnist`: grey as RGB."""
    x, y = fashion_mnist("train", 2 * count)  # seven tenths of them
    few = (y < len(CLASSES)).nonzero()[:count, 0]
    return Part(x=(2 * x[few] - 1).expand(-1, 3, -1, -1).contiguous(), y=y[few])


def _download() -> Path:
    try:
        from torchvision.datasets.utils import download_url

        part = f"{FILE}.{os.getpid()}"  # found as FILE only when it is whole
        download_url(URL, str(data.cache()), part, OFFICIAL_MD5)
        (data.cache() / part).replace(data.cache() / FILE)
    except (ImportError, OSError, RuntimeError) as error:
        given = os.environ.get("METAV_DATA")
        raise StorageError(
            f"expected {FILE} in --data or METAV_DATA ({given or 'not set'}), {data.SHARED} or {data.cache()}, got "
            f"none, and no download ({error}): give its folder with --data, set METAV_DATA, or go online with "
            "torchvision installed (run pip install -e '.[skin]' in metav's folder)."
        ) from error
    return data.cache()
