"""The figures of the notebooks, in one style: the same color for the same thing everywhere."""

import sys
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogFormatter, MaxNLocator

# Okabe and Ito's palette, told apart with every common color blindness (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GRAY = "#CC79A7", "#56B4E9", "#000000", "#444444"
COLORS = {"train": BLUE, "validation": ORANGE, "test": GREEN, "target": GRAY}
_STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "lines.linewidth": 1.6,
    "image.cmap": "cividis",
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK]),
}


def use_style() -> None:
    """Set the style for all figures that follow."""
    plt.rcParams.update(_STYLE)


def described(figure: Figure) -> str:
    """What a figure shows, in words: its titles and what its axes are labeled with."""
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        labels = " vs. ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
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


def row(count: int, height: float = 2.6, width: float = 8.6, **options) -> tuple[Figure, np.ndarray]:
    """A figure with ``count`` axes side by side, as wide as a notebook's page."""
    figure, axes = plt.subplots(1, count, figsize=(width, height), squeeze=False, **options)
    return figure, axes[0]


def target_line(ax: Axes, target: float) -> None:
    """The target as a dashed horizontal line with its value in the legend."""
    ax.axhline(target, color=GRAY, linestyle="--", linewidth=1.2, label=f"target: {target:g}")


def log_axis(ax: Axes) -> None:
    """A logarithmic y axis that names 2, 3, 4, 6 as well as 10."""
    ax.set_yscale("log")
    formatter = LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5))
    ax.yaxis.set_major_formatter(formatter)
    ax.yaxis.set_minor_formatter(formatter)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str,
    xlabel: str = "epoch",
    target: float | None = None,
    log_scale: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines of ``name -> (x, y)``, and the target as a dashed line."""
    ax = ax or row(1, width=4.4)[1][0]
    for name, (x, y) in series.items():
        ax.plot(x, y, label=name, color=COLORS.get(name), marker="o" if len(x) < 40 else None, ms=3)
    if target is not None:
        target_line(ax, target)
    if log_scale:
        log_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1 or target is not None:
        ax.legend(frameon=False)
    return ax


def training(
    logged: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    panels: Mapping[str, str],
    target: float | None = None,
    note: str = "",
) -> Figure:
    """Curves of one training, read by :func:`common.training.read_run`, side by side over epochs.

    Args:
        logged: tag -> (epochs, values).
        panels: what to draw -> the label of its axis, such as ``{"loss": "loss (nats)", "learning_rate": ""}``. Loss
            shows the raw training loss faint under its epoch means; perplexity has a logarithmic axis.
        target: drawn into the first panel.
        note: what the training loss holds, for its legend.
    """
    figure, axes = row(len(panels))
    for ax, (quantity, label) in zip(axes, panels.items()):
        title = quantity.replace("_", " ").capitalize()
        if quantity == "learning_rate":
            ax.plot(*logged["step/learning_rate"], color=GRAY)
            ax.set(title=title, xlabel="epoch", ylabel=label or "learning rate")
            continue
        lines = {part: logged[f"{quantity}/{part}"] for part in COLORS if f"{quantity}/{part}" in logged}
        if quantity == "loss":
            ax.plot(*logged["step/loss"], color=BLUE, alpha=0.25, linewidth=0.8)
        aim = target if quantity == next(iter(panels)) else None
        curves(lines, title, label, target=aim, log_scale=quantity == "perplexity", ax=ax)
        if quantity == "loss":
            handles, names = ax.get_legend_handles_labels()
            names = [f"train\n({note})" if name == "train" and note else name for name in names]
            ax.legend(handles, names, frameon=False, fontsize=8)
    return figure


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
) -> AxesImage:
    """A matrix as colors, NaN left blank; ``numbers`` is a format (such as ``"d"``) to write the values as well."""
    values = np.asarray(values, dtype=float)
    ax = ax or row(1, height=3.6, width=4.6)[1][0]
    image = ax.imshow(values, aspect="auto", vmin=limits[0], vmax=limits[1])
    ax.grid(False)
    if columns is not None:
        ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if numbers:
        middle = (image.norm.vmin + image.norm.vmax) / 2
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                text = format(int(value) if numbers == "d" else value, numbers)
                color = "black" if value > middle else "white"
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return image


def confusion(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str) -> Axes:
    """How often each true class (row) is taken for each other one (column); the diagonal is left blank."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    np.fill_diagonal(counts, np.nan)
    side = 2.4 + 0.32 * len(classes)
    ax = row(1, height=0.85 * side, width=side)[1][0]
    heatmap(counts, title, classes, classes, "predicted class", "true class", "d", ax=ax)
    return ax


def bars(values: Mapping[str, float], title: str, xlabel: str, ax: Axes | None = None) -> Axes:
    """Horizontal bars with their values, in the order given from the top."""
    ax = ax or row(1, height=0.8 + 0.26 * len(values), width=4.6)[1][0]
    drawn = ax.barh(list(values), list(values.values()), color=BLUE)
    ax.bar_label(drawn, fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(title=title, xlabel=xlabel)
    return ax


def pictures(images: np.ndarray, titles: Sequence[str], title: str, width: float = 8.6) -> Figure:
    """Pictures ``(count, height, width, 3)`` in one row."""
    figure, axes = row(len(images), height=1.3 * width / 8.6, width=width)
    for ax, image, name in zip(axes, images, titles):
        ax.imshow(np.asarray(image))
        ax.set_title(name, fontsize=8)
        ax.axis("off")
    figure.suptitle(title)
    return figure
