"""The figures of the notebooks, in one style: the same color for the same thing everywhere."""

import sys
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

# Okabe and Ito's palette, told apart with every common color blindness (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
COLORS = {"train": BLUE, "validation": ORANGE, "test": GREEN, "learning rate": PURPLE, "target": VERMILION}
_STYLE = {
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "lines.linewidth": 2,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK]),
}


def use_style() -> None:
    """Set the style for all figures that follow."""
    plt.rcParams.update(_STYLE)


def described(figure: Figure) -> str:
    """What a figure shows, in words: its titles and what its axes are labeled with."""
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        labels = " against ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
        parts.append(f"{ax.get_title()} ({labels})" if labels else ax.get_title())
    return "; ".join(dict.fromkeys(" ".join(part.split()) for part in parts if part))


def show() -> None:
    """Show the open figures; in a notebook with :func:`described` as the text for those who do not see images."""
    if "ipykernel" not in sys.modules:
        return plt.show()
    from IPython.display import display

    for figure in map(plt.figure, plt.get_fignums()):
        display(figure, metadata={"image/png": {"alt": f"Figure: {described(figure)}"}})
        plt.close(figure)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str,
    xlabel: str = "step",
    target: float | None = None,
    log_scale: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines of ``name -> (x, y)``, and the target as a dashed line."""
    ax = ax or plt.subplots(figsize=(5.5, 3.4))[1]
    for name, (x, y) in series.items():
        ax.plot(x, y, label=name, color=COLORS.get(name), marker="o" if len(x) < 30 else None, ms=4)
    if target is not None:
        ax.axhline(target, color=COLORS["target"], linestyle="--", linewidth=1.5, label=f"target: {target:g}")
    if log_scale:
        ax.set_yscale("log")
        formatter = LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5))  # 2, 3, 4, 6 as well as 10
        ax.yaxis.set_major_formatter(formatter)
        ax.yaxis.set_minor_formatter(formatter)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no half step
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1 or target is not None:
        ax.legend(frameon=False)
    return ax


def heatmap(
    values: np.ndarray,
    title: str,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    numbers: str | None = None,
    limits: tuple[float | None, float | None] = (None, None),
    ax: Axes | None = None,
) -> Axes:
    """A matrix as colors; ``numbers`` is a format (such as ``"d"``) to write the values as well."""
    values = np.asarray(values)
    ax = ax or plt.subplots(figsize=(5.5, 4.5))[1]
    image = ax.imshow(values, cmap="cividis", aspect="auto", vmin=limits[0], vmax=limits[1])
    ax.grid(False)
    if columns is not None:
        ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if numbers:
        middle = (image.norm.vmin + image.norm.vmax) / 2
        for (i, j), value in np.ndenumerate(values):
            color = "black" if value > middle else "white"
            ax.text(j, i, format(value, numbers), ha="center", va="center", fontsize=9, color=color)
    else:
        ax.figure.colorbar(image, ax=ax, fraction=0.046)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return ax


def confusion(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str) -> Axes:
    """How often each true class (row) is called each class (column)."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    side = 3 + 0.45 * len(classes)
    ax = plt.subplots(figsize=(side, side * 0.85))[1]
    return heatmap(counts, title, classes, classes, "predicted class", "true class", "d", ax=ax)


def bars(
    values: Mapping[str, float], title: str, xlabel: str, target: float | None = None, ax: Axes | None = None
) -> Axes:
    """Horizontal bars with their values, in the order given from the top."""
    ax = ax or plt.subplots(figsize=(5.5, 0.8 + 0.32 * len(values)))[1]
    drawn = ax.barh(list(values), list(values.values()), color=BLUE)
    ax.bar_label(drawn, fmt="%.1f", padding=3)
    if target is not None:  # explained below the axis, where it covers no number
        ax.axvline(target, color=COLORS["target"], linestyle="--", linewidth=1.5)
        xlabel = f"{xlabel}; dashed: the target of {target:g}"
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set(title=title, xlabel=xlabel)
    return ax
