"""Plots of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...binary import (
    ESTIMATORS,
    SCHEDULES,
    WeightRule,
    binary_layers,
    set_schedule,
)
from ...engine.config import load_config
from ...engine.facts import build_model
from ..runs import Curve, by_layer, checkpoints, config_file, read_scalars
from .method import NAMES
from .style import DASHES, log_scale, log_ticks, new_axes, short_number, styled

_NO_STATISTICS = (
    'flip rates and entropies are left out: the run has no statistics of binary '
    "layers; train with custom_hooks=[..., dict(type='BinaryStatsHook', interval=100)]"
)
_NO_SCHEDULE = (
    't and k are left out: the run has no schedule of EDE; train with custom_hooks='
    "[..., dict(type='EDEHook', t_min=0.1, t_max=10)]"
)
_FORMULAS = {'ede': 'k t (1 - tanh²(t x))', 'identity': '1', **NAMES}
_NO_WEIGHTS = (
    'histograms of weights are left out: there are no checkpoints of a binary network; '
    'train with default_hooks.checkpoint.max_keep_ckpts=-1 to keep all'
)


class LatentWeights(NamedTuple):
    """Values of all binary layers whose signs are the binary weights, at one point.

    For IR-Net these are the balanced, standardised weights.

    Attributes:
        position (int): Epoch or iteration.
        edges (np.ndarray): (n + 1,), limits of the bins.
        density (np.ndarray): (n,), density of the weights in each bin.
        estimator (str): Estimator of sign's derivative.
        schedule (str): Name of what moves with training.
        t (float): First number of the schedule at this point, EDE's sharpness.
        k (float): Second number of the schedule at this point, EDE's height.
        standardized (bool): Whether these are Libra-PB's standardised weights.
    """

    position: int
    edges: np.ndarray
    density: np.ndarray
    estimator: str
    schedule: str
    t: float
    k: float
    standardized: bool


class Run(NamedTuple):
    """Input of :func:`run_figures`.

    Attributes:
        name (str): Name of the work folder.
        curves (dict[str, Curve]): Output of
            :func:`~mmirnet.analysis.runs.read_scalars`.
        by_epoch (bool): Whether positions are epochs instead of iterations.
        latent (list[LatentWeights]): Weights of the chosen checkpoints.
    """

    name: str
    curves: dict[str, Curve]
    by_epoch: bool
    latent: list[LatentWeights]

    @property
    def unit(self) -> str:
        """Unit of the positions."""
        return 'epoch' if self.by_epoch else 'iteration'


def read_run(run_dir: str | Path, epochs: Sequence[int] | None = None) -> Run:
    """Reads the log of a run and the weights of some of its checkpoints.

    Args:
        run_dir (str | Path): Work folder of the run.
        epochs (Sequence[int], optional): Epochs, or iterations in an iteration-based
            run, whose weights to read. Defaults to the first, the middle and the last
            available checkpoint.

    Returns:
        Run: The run.

    Raises:
        FileNotFoundError: If there is no log, or no checkpoint of a chosen epoch.
    """
    curves, by_epoch = read_scalars(run_dir)
    files = checkpoints(run_dir, by_epoch)
    there = list(files)
    if missing := sorted(set(epochs or ()) - set(there)):
        raise FileNotFoundError(
            f'{run_dir} has no checkpoint of {missing}; there are {there}'
        )
    if epochs is None:
        epochs = sorted({there[i] for i in (0, len(there) // 2, -1)} if there else ())
    latent = [_latent_weights(run_dir, files[epoch], epoch, curves) for epoch in epochs]
    name = Path(run_dir).resolve().name
    return Run(name, curves, by_epoch, [w for w in latent if w is not None])


def _latent_weights(
    run_dir: str | Path, checkpoint: Path, position: int, curves: dict[str, Curve]
) -> LatentWeights | None:
    """Reads latent weights; returns None if the network has no binary layers."""
    cfg = load_config(str(config_file(run_dir)), None, 'none')
    model = build_model(cfg, str(checkpoint))
    layers = [layer for _, layer in binary_layers(model)]
    if not layers:
        return None
    # They are not in checkpoints. Without a hook they keep their initial values.
    schedule, numbers = layers[0].schedule, layers[0].t_and_k.tolist()
    for i, name in enumerate(schedule.numbers):
        if name in curves:
            numbers[i] = float(np.interp(position, *curves[name]))
    if schedule.numbers:
        set_schedule(model, schedule.name, *numbers)  # ReCU clamps weights by tau
    values = torch.cat([layer.latent().detach().flatten() for layer in layers]).numpy()
    limit = 4 * float(values.std())
    density, edges = np.histogram(values, 80, (-limit, limit), density=True)
    estimator, rule = layers[0].estimators[0], layers[0].rule
    standardized = isinstance(rule, WeightRule) and rule.standardize
    return LatentWeights(
        position, edges, density, estimator, schedule.name, *numbers, standardized
    )


def _schedule_title(name: str) -> str:
    """Describes the numbers of a schedule: "EDE's t and k"."""
    owner = 'EDE' if name == 'ede' else SCHEDULES[name].source.partition(',')[0]
    return f"{owner}'s {' and '.join(SCHEDULES[name].numbers)}"


def training_curves(run: Run, dark: bool = False) -> Figure:
    """Plots loss, accuracy and the numbers of the schedule of a run.

    Args:
        run (Run): The run.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: A panel for each of them that the log contains.
    """
    panels = {
        'training loss': {'loss': 'loss'},
        'accuracy (%)': {'accuracy/top1': 'top-1', 'accuracy/top5': 'top-5'},
    }
    for name, schedule in SCHEDULES.items():
        panels[_schedule_title(name)] = {n: n for n in schedule.numbers}
    panels = {k: v for k, v in panels.items() if v.keys() & run.curves.keys()}
    with styled(dark) as style:
        figure, axes = new_axes(len(panels), 1, 1.9 * len(panels), style, sharex=True)
        for axis, (label, lines) in zip(axes[:, 0], panels.items(), strict=True):
            for (name, legend), colour, dash in zip(
                lines.items(), style.curves, DASHES, strict=False
            ):
                if name in run.curves:
                    x, y = run.curves[name]
                    marker = 'o' if len(x) == 1 else ''
                    axis.plot(x, y, dash, marker=marker, color=colour, label=legend)
            axis.set_ylabel(label)
            if len(axis.lines) > 1:
                axis.legend()
            if label.startswith('EDE'):
                log_scale(axis)
        axes[-1, 0].set_xlabel(run.unit)
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
    return figure


def _heat_map(axis: Axes, layers: dict[str, Curve], norm: Normalize, unit: str) -> None:
    """Draws a row per layer, with the input at the top, and a column per record."""
    x = next(iter(layers.values()))[0]
    first = x[0] - (x[1] - x[0] if len(x) > 1 else x[0])
    values = [y for _, y in layers.values()]
    rows = np.arange(len(layers) + 1) - 0.5
    mesh = axis.pcolormesh(
        [first, *x], rows, values, cmap='cividis', norm=norm, rasterized=True
    )
    axis.invert_yaxis()
    axis.grid(False)
    names = [name.removeprefix('backbone.') for name in layers]
    axis.set_yticks(range(len(names)), names, fontsize='x-small')
    bar = axis.figure.colorbar(mesh, ax=axis, label=unit, pad=0.01, format='{x:g}')
    bar.ax.tick_params(
        which='both',
        color=axis.spines['left'].get_edgecolor(),
        labelcolor=bar.ax.yaxis.label.get_color(),
    )
    if isinstance(norm, LogNorm):
        log_ticks(bar.ax)
    bar.outline.set_visible(False)


def flip_rates(run: Run, dark: bool = False) -> Figure:
    """Plots the share of weights whose sign changes between two records.

    Args:
        run (Run): A run with records of ``BinaryStatsHook``.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: The share over iterations, for all layers together and for each layer.
    """
    x, y = run.curves['binary/flips']
    layers = {
        name: (steps, [100 * v for v in values])
        for name, (steps, values) in by_layer(run.curves, 'flips').items()
    }
    values = np.array([values for _, values in layers.values()])
    # Shares fall by orders of magnitude. Zeros get the colour of the smallest share.
    log = bool((values > 0).any())
    norm = (
        LogNorm(values[values > 0].min(), values.max(), clip=True)
        if log
        else Normalize(0, 1)
    )
    floor = norm.vmin
    layers = {
        n: (steps, [max(v, floor) for v in vs]) for n, (steps, vs) in layers.items()
    }
    height = 0.17 * len(layers) + 1
    with styled(dark) as style:
        figure, ((top,), (bottom,)) = new_axes(
            2, 1, height + 2, style, sharex=True, height_ratios=(2, height)
        )
        marker = 'o' if len(x) == 1 else ''
        top.plot(x, [100 * v for v in y], marker=marker, color=style.curves[0])
        top.set_ylabel('all layers (%)')
        if log:
            log_scale(top)
        top.set_title('weights that changed sign since the last record')
        _heat_map(bottom, layers, norm, '% of the layer')
        bottom.set(xlabel='iteration', ylabel='layer')
    return figure


def entropies(run: Run, dark: bool = False) -> Figure:
    """Plots the entropy of binary weights and activations by layer and iteration.

    Args:
        run (Run): A run with records of ``BinaryStatsHook``.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: A heat map for weights and, if they are binary, one for activations.
    """
    panels = {
        'binary weights: mean over filters': by_layer(run.curves, 'weight_entropy'),
        'binary activations: mean over input channels': by_layer(
            run.curves, 'input_entropy'
        ),
    }
    panels = {title: layers for title, layers in panels.items() if layers}
    heights = [0.17 * len(layers) + 0.8 for layers in panels.values()]
    with styled(dark) as style:
        figure, axes = new_axes(
            len(panels), 1, sum(heights), style, sharex=True, height_ratios=heights
        )
        for axis, (title, layers) in zip(axes[:, 0], panels.items(), strict=True):
            low = min(min(values) for _, values in layers.values())
            _heat_map(axis, layers, Normalize(min(low, 0.999), 1), 'entropy (bits)')
            axis.set(title=title, ylabel='layer')
        axes[-1, 0].set_xlabel('iteration')
    return figure


def latent_weights(run: Run, dark: bool = False) -> Figure:
    """Plots histograms of latent weights with the estimator's derivative.

    Args:
        run (Run): A run with weights.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: A panel per checkpoint.
    """
    count, estimator = len(run.latent), run.latent[0].estimator
    label = (
        'weights, balanced and standardised'
        if run.latent[0].standardized
        else 'values of which the sign is taken'
    )
    with styled(dark) as style:
        figure, axes = new_axes(count, 1, 1.7 * count + 0.8, style, sharex=True)
        for axis, weights in zip(axes[:, 0], run.latent, strict=True):
            axis.stairs(
                weights.density,
                weights.edges,
                fill=True,
                color=style.curves[0],
                alpha=0.6,
                label=label,
            )
            x = torch.linspace(*weights.edges[[0, -1]].tolist(), 401)
            t, k = torch.tensor(weights.t), torch.tensor(weights.k)
            factor = ESTIMATORS[weights.estimator].derivative(x, t, k)
            twin = axis.twinx()
            twin.plot(x, factor, color=style.curves[1], label='gradient factor')
            twin.tick_params(color=style.rule, labelcolor=style.ink)
            twin.spines[['top', 'left']].set_visible(False)
            twin.set(ylabel='gradient factor', ylim=(0, None))
            axis.set_ylabel('density')
            axis.set_title(f'{run.unit} {weights.position}{_numbers(weights)}')
        axes[-1, 0].set_xlabel('latent weight')
        handles = [axes[0, 0].patches[0], twin.lines[0]]
        formula = _FORMULAS.get(estimator, estimator)
        labels = [handles[0].get_label(), f'gradient factor: {formula}']
        figure.legend(handles, labels, loc='outside lower center', ncols=2)
    return figure


def _numbers(weights: LatentWeights) -> str:
    """Returns the numbers of the schedule for a title."""
    names = SCHEDULES[weights.schedule].numbers if weights.schedule in SCHEDULES else ()
    values = zip(names, (weights.t, weights.k), strict=False)
    text = ', '.join(f'{name} = {short_number(value)}' for name, value in values)
    owner = "EDE's " if weights.schedule == 'ede' else ''
    return f': {owner}{text}' if text else ''


def confusion(matrix: np.ndarray, classes: Sequence[str], dark: bool = False) -> Figure:
    """Plots a confusion matrix.

    Args:
        matrix (np.ndarray): (n, n), int: images by true and by predicted class.
        classes (Sequence[str]): The n class names.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: Shares of each true class in colour, with counts for up to 20 classes.

    Example:
        >>> figure = confusion(np.array([[3, 1], [0, 4]]), ['cat', 'dog'])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3', '1', '4']
    """
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    named = len(matrix) <= 20
    with styled(dark) as style:
        figure, ((axis,),) = new_axes(1, 1, 5.4, style)
        mesh = axis.imshow(shares, cmap='cividis', vmin=0, vmax=100)
        axis.grid(False)
        bar = figure.colorbar(mesh, label='% of the true class')
        bar.ax.tick_params(color=style.rule, labelcolor=style.ink)
        bar.outline.set_visible(False)
        axis.set(xlabel='predicted class', ylabel='true class')
        if named:
            # A dollar sign in a name does not start a formula.
            ticks = range(len(matrix))
            axis.set_xticks(ticks, classes, rotation=45, ha='right', parse_math=False)
            axis.set_yticks(ticks, classes, parse_math=False)
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    ink = 'black' if shares[row, column] > 50 else 'white'
                    axis.text(column, row, count, color=ink, ha='center', va='center')
    return figure


def run_figures(run: Run, dark: bool = False) -> tuple[dict[str, Figure], list[str]]:
    """Draws the standard plots of a run for which it has records.

    Args:
        run (Run): The run.
        dark (bool): Whether the backgrounds are dark. Defaults to False.

    Returns:
        tuple[dict[str, Figure], list[str]]: The figures by name, and a note on each
        missing plot.
    """
    figures, notes = {'curves': training_curves(run, dark)}, []
    if 't' not in run.curves and all(w.schedule == 'ede' for w in run.latent):
        notes.append(_NO_SCHEDULE)
    if 'binary/flips' in run.curves:
        figures['flips'] = flip_rates(run, dark)
        figures['entropy'] = entropies(run, dark)
    else:
        notes.append(_NO_STATISTICS)
    if run.latent:
        figures['weights'] = latent_weights(run, dark)
    else:
        notes.append(_NO_WEIGHTS)
    return figures, notes
