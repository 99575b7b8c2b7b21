"""Figures of the paper's evaluation: bars of all schemes, a grid of curves, learning curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metav import evaluation, figures, results
from metav.figures import INK, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LITTLE = 0.1  # a loss below is drawn on a linear axis: it may be 0


def bars(rows: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[str, float]]) -> Figure:
    """ARUC and robustness at 100 % uniqueness of each scheme (Fig. 2a and 3); diamonds are the `published` figures.

    `published` gives ARUC and robustness by their keys in results.json, for each scheme that the paper has.
    """
    shown = {"aruc": "ARUC (grid, ceiling 0.980)", "robustness_at_full_uniqueness": "robustness at 100 % uniqueness"}
    names = [wrapped(row["title"], 26) for row in rows]
    with figures.drawing(7, 1.1 + 0.17 * sum(2 + name.count("\n") for name in names)) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (key, title) in zip(axes, shown.items(), strict=True):
            means = [row[key]["mean"] for row in rows]
            halves = [row[key]["ci95"] or 0 for row in rows]
            ax.barh(range(len(rows)), means, color=[colour(row["scheme"]) for row in rows], height=0.7)
            spread = figures.bar_lengths(means, halves)
            ax.errorbar(means, range(len(rows)), xerr=spread, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
            for index, row in enumerate(rows):
                value = published.get(row["scheme"], {}).get(key)
                if value is not None:
                    ax.plot(value, index, marker="D", color="white", markeredgecolor=INK, markersize=6, clip_on=False)
            ax.set(xlim=(0, 1), xlabel=title)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(rows)), names)
        axes[0].invert_yaxis()
        repeats = max(row["repeats"] for row in rows)
        figures.title(figure, f"{rows[0]['scenario']}: means of {repeats} repetitions; diamonds: the paper")
    return figure


def grid(rows: Sequence[dict[str, Any]], scores: pd.DataFrame) -> Figure:
    """R and U of each scheme against the threshold, a panel each (Fig. 2b-f, 5a-b)."""
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    with figures.drawing(7, 0.3 + 2.4 * down) as figure:
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
        for index, ax in enumerate(axes):
            if index >= len(rows):
                ax.axis("off")
                continue
            figures.curves(ax, results.of_row(scores, rows[index]), labels=index == 0)
            name = wrapped(rows[index]["title"], 24)
            ax.set_title(f"{name}\nARUC {rows[index]['aruc']['mean']:.3f}", loc="left", fontsize=9)
            ax.label_outer()
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("threshold" if index + across >= len(rows) else "")  # the lowest of its column
    return figure


def wrapped(scheme: str, width: int) -> str:
    """A scheme with its options, in lines of so many letters."""
    return "\n".join(textwrap.wrap(scheme.replace(",", ", "), width))


def learning(rows: Sequence[Mapping[str, Any]], scenario: str) -> Figure:
    """ARUC and loss against the seconds of construction (Fig. 4), means over repetitions.

    The band is the 95 % interval of the ARUC. Most is learnt in the first seconds, and losses get small: the axes of
    both are logarithmic, but for losses near 0.
    """
    table, titles = pd.DataFrame(rows), {"aruc": "ARUC of test suspects", "loss": f"loss (linear below {LITTLE})"}
    with figures.drawing(7, 3.4) as figure:
        for ax, (key, label) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            height = 0.02  # of the next name, where curves have left room: below their ends
            for scheme in reversed(table.scheme.unique()):
                mine = table[table.scheme == scheme]
                points = mine.groupby("iterations")
                means = points[["seconds", key]].mean()
                ax.plot(means.seconds, means[key], color=colour(scheme), linewidth=2)
                if key == "aruc":
                    halves = np.array([evaluation.interval(each)[1] or 0 for _, each in points[key]])
                    below, above = figures.bar_lengths(means[key].to_numpy(), halves)
                    low, high = means[key] - below, means[key] + above
                    ax.fill_between(means.seconds, low, high, color=colour(scheme), alpha=0.15, linewidth=0)
                    at = {"color": colour(scheme), "ha": "right", "va": "bottom", "transform": ax.transAxes}
                    ax.text(0.98, height, name := wrapped(scheme, 25), **at)
                    height += 0.065 * (1 + name.count("\n"))
            ax.set(xlabel="seconds of construction", ylabel=label, xscale="log")
            ax.xaxis.set_major_formatter("{x:g}")
            if key == "loss":
                ax.set_yscale("symlog", linthresh=LITTLE, linscale=0.5)
            ax.set_ylim(0, 1 if key == "aruc" else None)
        repeats = table.repetition.nunique()
        figures.title(figure, f"{scenario}: means of {repeats} repetitions, with the 95 % interval of the ARUC")
    return figure


def stays_above(rows: Sequence[Mapping[str, Any]], scheme: str, level: float) -> tuple[int, float] | None:
    """From which iterations and seconds on the mean ARUC of a scheme is above a level; None if it ends below."""
    table = pd.DataFrame(rows)
    means = table[table.scheme == scheme].groupby("iterations")[["seconds", "aruc"]].mean()
    below = np.flatnonzero(means.aruc.to_numpy() <= level)
    first = below[-1] + 1 if len(below) else 0
    return (int(means.index[first]), float(means.seconds.iloc[first])) if first < len(means) else None
