"""A zoo at a glance: of generators what one suspect of each family makes of the same codes, of others their quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from metav import figures
from metav.listing import FACTS
from metav.storage import write_atomic
from metav.verification import query
from metav.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def one_of_each(zoo: Zoo) -> dict[str, str]:
    """Lineages by family: the target, and the middle one of each family, as pruning comes in order of strength."""
    families: dict[str, list[str]] = {}
    for suspect in zoo.scenario.suspects:
        families.setdefault(suspect.family, []).append(suspect.lineage)
    return {"Target": "target"} | {family: members[len(members) // 2] for family, members in families.items()}


def samples(zoo: Zoo, lineages: Mapping[str, str], count: int = 16) -> dict[str, Tensor]:
    """Images (count, channels, height, width) by title, from the first codes of the test part, the same for all."""
    codes = zoo.scenario.parts["test"].x[:count]
    return {title: query(zoo.load(lineage), codes) for title, lineage in lineages.items()}


def sheet(rows: Mapping[str, Tensor]) -> Figure:
    """Draw one row a title of its images (n, 1 or 3, height, width), in [0, 1]; columns share their code."""
    from matplotlib.figure import Figure

    count = max(len(images) for images in rows.values())
    figure = Figure(figsize=(2 + 0.55 * count, 0.6 * len(rows)), layout="constrained")
    for ax, (title, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        strip = torch.cat(list(images.movedim(1, -1)), dim=1).squeeze(-1).numpy()
        ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def write(zoo: Zoo, models: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a zoo into the PNG file `path`: samples of generators, otherwise quality; `models` as `listing.rows`."""
    shape = zoo.scenario.spec.output_shape
    images = zoo.scenario.spec.output == "images" and len(shape) == 3 and shape[0] in (1, 3)
    figure = sheet(samples(zoo, one_of_each(zoo))) if images else quality(zoo.scenario.name, models)
    return save(figure, path, dots=100 if images else 150)


def save(figure: Figure, path: Path, dots: int) -> Path:
    """Write a figure as a PNG file, with so many dots per inch."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dots, bbox_inches="tight", metadata={"Software": None})
    write_atomic(path, content.getvalue())
    return path


def quality(scenario: str, models: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the quality of all suspects, and their agreement with the target, by family; `models` as `listing.rows`."""
    table = pd.DataFrame([row for row in models if row["truly"] != "-"])
    table["positive"] = table.truly == "derived"
    (target,) = (row for row in models if row["family"] == "target")
    found = {name: value for name, value in target.items() if name not in FACTS}
    return figures.zoo(table, found, f"The suspects of {scenario}")
