"""Figures of results, drawn from the scores alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metav import evaluation
from metav.results import KINDS, sides, with_interval
from metav.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE = "#6a3d9a", "#7a8b00"  # of derived and independent models: no scheme's colour
SIDES = "derived (purple) and independent (green)"
SHADE, INK = "#d9d9e3", "#333333"
COLOURS = {  # of a scheme, in all figures
    "metav": "#0072b2",
    "metav(": "#56b4e9",  # with options
    "cohort": "#009e73",
    "liteguard": "#cc79a7",
    "ipguard": "#d55e00",
    "deepfoolfp": "#e69f00",
    "conferae": "#8c6d00",
    "modeldiff": "#333333",
    "sac-m": "#999999",
    "akh": "#882255",
}
ASIDE, BESIDE = 1.02, 1.0  # from line to line, so that bars stand side by side: a factor (log axis), and queries
FAR = 3  # interquartile ranges from the middle half, beyond which models would squeeze all others together
DASHES = ("-", "--", ":", "-.")  # of lines that would share a colour
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "metav",
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in one style while it is drawn; of 7 and less it can be read at half a page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def colour(scheme: str) -> str:
    """The colour of a scheme, with or without options; black for one of somebody else's."""
    name, options, _ = scheme.partition("(")
    return COLOURS.get(name + options, COLOURS.get(name, INK))


def overview(row: dict[str, Any], scores: pd.DataFrame) -> Figure:
    """R and U against the threshold (as Fig. 5 of the paper), and beside it all test suspects by family.

    Parameters
    ----------
    row
        One row of results.json.
    scores
        The test suspects of all its repetitions: columns repetition, family, positive, rate, threshold.
    """
    families = sorted(row["by_lineage"], key=lambda family: not row["by_lineage"][family]["positive"])
    with drawing(7, max(3.6, 1.2 + 0.2 * len(families))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
        curves(left, scores)
        by_lineage(right, scores, families)
        left.set_title(f"ARUC {with_interval(row['aruc'])} (ceiling 0.980)", loc="left")
        right.set_title(SIDES, loc="right")
        about = f"{row['scenario']} ({row['profile']}, {row['protocol']}), {row['queries']} queries"
        title(figure, f"{row['title']}\n{about}, {row['repeats']} repetitions, test suspects")
    return figure


def title(figure: Figure, text: str) -> None:
    """Write what a figure is of above it, at the left."""
    figure.suptitle(text, x=0.01, ha="left")


def curves(ax: Axes, scores: pd.DataFrame, *, labels: bool = True) -> Axes:
    """Draw robustness and uniqueness, means over repetitions; the shaded area is the mean exact ARUC."""
    thresholds = np.linspace(0, 1, 501)
    r, u, both = [], [], []
    for _, part in scores.groupby("repetition"):
        positives, negatives = sides(part)
        r.append(evaluation.robustness(positives, thresholds))
        u.append(evaluation.uniqueness(negatives, thresholds))
        both.append(np.minimum(r[-1], u[-1]))
    ax.plot(thresholds, np.mean(r, 0), color=POSITIVE, linewidth=2, label="robustness R")
    ax.plot(thresholds, np.mean(u, 0), color=NEGATIVE, linewidth=2, label="uniqueness U")
    ax.fill_between(thresholds, np.mean(both, 0), color=SHADE, linewidth=0, label="shaded: min(R, U)")
    ax.set(
        xlabel="threshold",
        ylabel="share of suspects",
        xlim=(-0.01, 1.01),
        ylim=(0, 1.03),
    )
    if labels:  # in the colours of their lines, where these leave room
        ax.legend(loc="best", frameon=False, handlelength=0, handletextpad=0, labelcolor=[POSITIVE, NEGATIVE, INK])
    return ax


def by_lineage(ax: Axes, scores: pd.DataFrame, families: Sequence[str]) -> Axes:
    """Draw each test suspect's matching rate in the row of its family; rows in the order of `families`."""
    strips(ax, scores, families, "rate")
    thresholds = scores.threshold.unique()  # of each fingerprint
    for threshold in thresholds:
        ax.axvline(float(threshold), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    dashed = "threshold" if len(thresholds) == 1 else "each fingerprint's threshold"
    ax.set(xlabel=f"matching rate\n(bar: mean, dashed: {dashed})", xlim=(-0.01, 1.01))
    return ax


def strips(
    ax: Axes, table: pd.DataFrame, families: Sequence[str], column: str, within: tuple[float, float] = (-np.inf, np.inf)
) -> Axes:
    """Draw the values of a column in rows by `family`, coloured by `positive`, each family's mean as a bar.

    Values and means that are not `within` the two are drawn at the nearer one.
    """
    jitter = np.random.default_rng(0)
    for index, family in enumerate(families):
        part = table[table.family == family]
        colour = POSITIVE if part.positive.iloc[0] else NEGATIVE
        height = index + jitter.uniform(-0.28, 0.28, len(part))
        ax.scatter(part[column].clip(*within), height, s=14, color=colour, alpha=0.45, linewidth=0, clip_on=False)
        ax.plot([np.clip(part[column].mean(), *within)] * 2, [index - 0.38, index + 0.38], color=INK, linewidth=1.4)
    counts = table.family.value_counts()
    ax.set_yticks(range(len(families)), [f"{family} ({counts[family]})" for family in families])
    ax.set_ylim(len(families) - 0.4, -0.6)  # the first at the top
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def sweep(rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """ARUC against the number of `queries`, or of `models` a side (Fig. 5c, 5d, 6 and 7 of the paper), a line a scheme.

    `rows` are those of results.json; bars are their 95 % intervals, cut off at 0 and 1, side by side where lines share
    a number. The whole construction half has no place on the axis of models.
    """
    with drawing(6.5, 4) as figure:
        ax, ends, low, log = figure.subplots(), [], 1.0, name == "models"
        others = [kind for kind in KINDS[1:] if kind != name and len({row.get(kind) for row in rows}) > 1]
        lines = [", ".join(str(row[kind]) for kind in ("scheme", *others) if row[kind]) for row in rows]
        used: list[str] = []
        for line in dict.fromkeys(lines):
            members = (row for row, its in zip(rows, lines, strict=True) if its == line and row[name])
            mine = sorted(members, key=lambda row: row[name])
            if not mine:  # the whole construction half alone
                continue
            found = [row["aruc"] for row in mine]
            means, halves = [each["mean"] for each in found], [each["ci95"] or 0 for each in found]
            low = min(low, *(mean - half for mean, half in zip(means, halves, strict=True)))
            shade = colour(mine[0]["scheme"])
            dash = DASHES[used.count(shade) % len(DASHES)]
            x = [row[name] * ASIDE ** len(used) if log else row[name] + BESIDE * len(used) for row in mine]
            used.append(shade)
            ax.plot(x, means, color=shade, linewidth=1.6, linestyle=dash, marker="o", markersize=4)
            ax.errorbar(x, means, bar_lengths(means, halves), fmt="none", color=shade, elinewidth=0.8, capsize=2)
            ends.append((means[-1], line.replace(", ", "\n").replace("(", "\n(").replace(",", ",\n"), shade))
        low = max(0.0, np.floor(10 * low) / 10)
        top = np.inf  # of the room that is left for labels, from the highest line down
        for mean, label, shade in sorted(ends, reverse=True):
            height = 0.055 * (label.count("\n") + 1)
            y = min((mean - low) / (1 - low) + height / 2, top)
            ax.text(1.02, y, label, color=shade, va="top", transform=ax.transAxes)
            top = y - height - 0.02
        ax.set_xscale("log" if log else "linear")
        ax.set_xlabel("models of each side to construct from" if log else "queries N")
        numbers = sorted({row[name] for row in rows if row[name]})
        ax.set_xticks(numbers, [f"{number:g}" for number in numbers])
        ax.set_xticks([], minor=True)
        ax.set(ylabel="ARUC (grid, ceiling 0.980)", ylim=(low, 1.01))
        title(figure, f"{rows[0]['scenario']}, {max(row['repeats'] for row in rows)} repetitions")
    return figure


def bar_lengths(means: evaluation.Rates, halves: evaluation.Rates) -> evaluation.Floats:
    """Lengths (2, n) of bars below and above means in [0, 1], cut off where no value can be."""
    found, sizes = np.asarray(means, dtype=np.float64), np.asarray(halves, dtype=np.float64)
    return np.stack([np.minimum(sizes, found), np.minimum(sizes, 1 - found)])


def zoo(table: pd.DataFrame, target: Mapping[str, float], heading: str) -> Figure:
    """All suspects of a zoo by family, a panel for each figure of quality; the target's own is the dashed line.

    Parameters
    ----------
    table
        One row a suspect: columns family, positive, and one for each figure of quality.
    target
        The target's figures of quality by name.
    heading
        What stands above the panels.
    """
    with drawing(7, 4.4) as figure:
        axes = figure.subplots(1, len(target), sharey=True, squeeze=False)[0]
        for ax, (name, value) in zip(axes, target.items(), strict=True):
            low, high = table[name].quantile([0.25, 0.75])
            reach = FAR * (high - low) or np.inf
            within = low - reach, high + reach
            strips(ax, table, list(table.family.unique()), name, within)
            ax.axvline(value, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            beyond = "" if table[name].between(*within).all() else ";\nat the edge: beyond it"
            ax.set_xlabel(f"{name}\n(bar: mean, dashed: the target{beyond})")
        title(figure, f"{heading}: {SIDES}")
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write SVG (byte-identical for equal content) and PNG; return both paths."""
    import matplotlib as mpl

    paths = []
    formats: dict[str, Any] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 150}}
    for suffix, options in formats.items():
        content = BytesIO()
        with mpl.rc_context(STYLE):
            figure.savefig(content, format=suffix, **options)
        paths.append(folder / f"{name}.{suffix}")
        write_atomic(paths[-1], content.getvalue())
    return paths
