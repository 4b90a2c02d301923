"""Pictures of the method, of a run (what its network did), and of experiments.

Every function gives a Figure for a light or a dark background, in the colours of Okabe
and Ito, which people tell apart with every kind of colour vision; lines differ in
their dashes as well.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import cycler, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from ..binary import (
    ESTIMATORS,
    binary_layers,
    ede,
    estimator_statistics,
    sign,
)
from .runs import Curve, by_layer, checkpoints, config_file, read_scalars


class Style(NamedTuple):
    """Colours of a picture: background, text, lines in between, and curves."""

    paper: str
    ink: str
    rule: str
    curves: tuple[str, ...]


#: Okabe and Ito's blue, vermilion, green, purple, orange.
LIGHT = Style(
    '#ffffff',
    '#1b1f24',
    '#b8bec6',
    ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00'),
)
#: Their sky blue, orange, green, purple, yellow.
DARK = Style(
    '#14171c',
    '#e8eaed',
    '#4b525c',
    ('#56B4E9', '#E69F00', '#009E73', '#CC79A7', '#F0E442'),
)
_DASHES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)))
_WIDTH = 6.4  # inches
#: EDE's sharpness at five points of the paper's schedule.
_SHARPNESS = (0.1, 0.3, 1.0, 3.0, 10.0)
_NAMES = {'ste': 'STE (clip)', 'approx_sign': 'approx_sign (Bi-Real Net)'}


@contextmanager
def _styled(dark: bool) -> Iterator[Style]:
    """What is drawn inside has the colours that come with it."""
    style = DARK if dark else LIGHT
    settings = {
        'figure.facecolor': style.paper,
        'axes.facecolor': style.paper,
        'axes.edgecolor': style.rule,
        'axes.labelcolor': style.ink,
        'axes.titlecolor': style.ink,
        'axes.titlesize': 'medium',
        'axes.prop_cycle': cycler(color=style.curves),
        'text.color': style.ink,
        'xtick.color': style.ink,
        'ytick.color': style.ink,
        'grid.color': style.rule,
        'grid.alpha': 0.5,
        'legend.frameon': False,
        'font.size': 10.0,
    }
    with rc_context(settings):
        yield style


def _axes(
    rows: int, columns: int, height: float, style: Style, **options
) -> tuple[Figure, np.ndarray]:
    """A figure with its axes in an array (rows, columns)."""
    figure = Figure(figsize=(_WIDTH, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        _tidy(axis, style)
    return figure, axes


def _tidy(axis: Axes, style: Style) -> None:
    # Ticks are made when the figure is saved, outside of its style.
    axis.tick_params(which='both', color=style.rule, labelcolor=style.ink)
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(True)


def _log_scale(axis: Axes) -> None:
    """Logarithmic y with plain numbers, at 2 and 5 too within two powers of ten."""
    axis.set_yscale('log')
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 100 * low else ()))
    axis.yaxis.set_minor_formatter('{x:g}')


def _number(value: float) -> str:
    return f'{value:.3g}'


# --------------------------------------------------------------------------
# The method.


def _curve(name: str, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """An estimator's stand-in for sign, and its derivative, at x."""
    estimator = ESTIMATORS[name]
    t, k = torch.tensor(t), torch.tensor(max(1 / t, 1.0))
    return estimator.curve(x, t, k), estimator.derivative(x, t, k)


def ede_family(dark: bool = False) -> Figure:
    """EDE's curves g(x) = k tanh(tx) and their derivatives, from t = 0.1 to 10.

    Args:
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: Two panels, g beside sign and g'.

    Example:
        >>> [axis.get_ylabel() for axis in ede_family().axes]
        ['g(x) = k tanh(t x)', "g'(x) = k t (1 - tanh²(t x))"]
    """
    x = torch.linspace(-2, 2, 801)
    with _styled(dark) as style:
        figure, ((left, right),) = _axes(1, 2, 3.6, style)
        left.plot(x, sign(x), color=style.ink, linewidth=0.8, label='sign')
        for t, colour, dash in zip(_SHARPNESS, style.curves, _DASHES, strict=True):
            curve, derivative = _curve('ede', x, t)
            label = f't = {_number(t)}, k = {_number(max(1 / t, 1))}'
            left.plot(x, curve, color=colour, linestyle=dash, label=label)
            right.plot(x, derivative, color=colour, linestyle=dash)
        left.set(xlabel='x', ylabel='g(x) = k tanh(t x)')
        right.set(xlabel='x', ylabel="g'(x) = k t (1 - tanh²(t x))")
        figure.legend(loc='outside lower center', ncols=3)
    return figure


def ede_stages(dark: bool = False) -> Figure:
    """EDE at the start, between its two stages and at the end, and its schedule.

    Args:
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: Three panels of g beside what it is close to, and t and k over the
        progress of training.

    Example:
        >>> [axis.get_title() for axis in ede_stages().axes[:3]]
        ['start: identity', 'middle: clip', 'end: sign']
    """
    x = torch.linspace(-3, 3, 801)
    shapes = {
        'start: identity': (0.0, x),
        'middle: clip': (0.5, x.clamp(-1, 1)),
        'end: sign': (1.0, sign(x)),
    }
    with _styled(dark) as style:
        figure, axes = _axes(2, 3, 5.2, style)
        for axis, (title, (progress, shape)) in zip(
            axes[0], shapes.items(), strict=True
        ):
            t, k = ede(progress)
            curve, derivative = _curve('ede', x, t)
            axis.plot(
                x, shape, color=style.ink, linewidth=0.8, label='identity, clip, sign'
            )
            axis.plot(x, curve, color=style.curves[0], label='g(x)')
            axis.fill_between(
                x, 0, derivative, color=style.curves[1], alpha=0.35, label="g'(x)"
            )
            axis.set(title=title, xlabel=f'x\nt = {t:.3g}, k = {k:.3g}', ylim=(-3, 3))
        axes[0, 0].set_ylabel("g(x), g'(x)")
        axes[0, 0].legend(loc='upper left', fontsize='small', handlelength=1.2)
        for axis in axes[1]:
            axis.remove()
        schedule = figure.add_subplot(axes[0, 0].get_gridspec()[1, :])
        _draw_schedule(schedule, style)
    return figure


def _draw_schedule(axis: Axes, style: Style) -> None:
    progress = np.linspace(0, 1, 201)
    values = np.array([ede(p) for p in progress])
    for name, column, colour, dash in zip(
        'tk', values.T, style.curves, _DASHES, strict=False
    ):
        axis.plot(100 * progress, column, color=colour, linestyle=dash, label=name)
    axis.axvline(50, color=style.rule)
    for x, y, text in (
        (20, 1.0, 'stage 1: from identity to clip,\ngradients reach most weights'),
        (75, 0.3, 'stage 2: from clip to sign,\ngradients reach those near 0'),
    ):
        axis.text(x, y, text, ha='center', va='center', fontsize='small')
    _tidy(axis, style)
    axis.set(xlabel='training done (%)', ylabel='t, k', xlim=(0, 100))
    _log_scale(axis)
    axis.legend(loc='upper center', ncols=2)


def estimator_errors(dark: bool = False) -> Figure:
    """How far each estimator's curve is from sign.

    Args:
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: Two panels: the distance at x, and its root mean square for normally
        distributed x over EDE's t.

    Example:
        >>> estimator_errors().axes[1].get_xlabel()
        "EDE's t"
    """
    x = torch.linspace(-2, 2, 801)
    # Midpoints of equal shares of a standard normal distribution.
    normal = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000)
    times = np.geomspace(0.1, 10, 61)
    with _styled(dark) as style:
        figure, ((left, right),) = _axes(1, 2, 3.6, style)
        others = list(zip(_NAMES, style.curves[1:3], _DASHES[1:3], strict=True))
        right.plot(times, [_rms('ede', normal, t) for t in times], color=style.ink)
        for t, index in zip((0.1, 1.0, 10.0), (0, 3, 4), strict=True):
            error = (sign(x) - _curve('ede', x, t)[0]).abs()
            colour, label = style.curves[index], f'EDE, t = {_number(t)}'
            left.plot(x, error, color=colour, label=label)
            right.plot(t, _rms('ede', normal, t), 'o', color=colour)
        for name, colour, dash in others:
            error = (sign(x) - _curve(name, x, 1.0)[0]).abs()
            left.plot(x, error, color=colour, linestyle=dash, label=_NAMES[name])
        left.set(xlabel='x', ylabel='|sign(x) - g(x)|')

        for name, colour, dash in others:
            right.axhline(_rms(name, normal, 1.0), color=colour, linestyle=dash)
        right.set(
            xlabel="EDE's t",
            xscale='log',
            ylabel='root mean square for x ~ N(0, 1)',
            ylim=(0, None),
        )
        right.xaxis.set_major_formatter('{x:g}')
        figure.legend(loc='outside lower center', ncols=3)
    return figure


def _rms(name: str, x: Tensor, t: float) -> float:
    values = torch.tensor(t), torch.tensor(max(1 / t, 1.0))
    return math.sqrt(estimator_statistics(x, *values, name)['square_error'])


# --------------------------------------------------------------------------
# A run.


class LatentWeights(NamedTuple):
    """Balanced, standardised weights of all binary layers at one point of a run.

    Attributes:
        position: Epoch or iteration.
        edges: (n + 1,), limits of the bins.
        density: (n,), of the weights in each bin.
        estimator: What stood in for sign's derivative.
        t: EDE's sharpness then.
        k: EDE's height then.
    """

    position: int
    edges: np.ndarray
    density: np.ndarray
    estimator: str
    t: float
    k: float


class Run(NamedTuple):
    """What :func:`run_figures` draws.

    Attributes:
        name: The working folder's name.
        curves: As from :func:`~mmirnet.analysis.runs.read_scalars`.
        by_epoch: Whether its positions are epochs (else iterations).
        latent: Weights of the chosen checkpoints.
    """

    name: str
    curves: dict[str, Curve]
    by_epoch: bool
    latent: list[LatentWeights]

    @property
    def unit(self) -> str:
        """What positions count."""
        return 'epoch' if self.by_epoch else 'iteration'


def read_run(run_dir: str | Path, epochs: Sequence[int] | None = None) -> Run:
    """Reads a run's log and the weights of some of its checkpoints.

    Args:
        run_dir (str | Path): The run's working folder.
        epochs (Sequence[int], optional): Epochs (iterations, where the run counts
            those) whose weights to read; by default those of the first, the middle
            and the last checkpoint that are there.

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
    """None if the network has no binary layers."""
    from ..engine.facts import build_model  # needs more than torch
    from ..engine.run import load_config

    cfg = load_config(str(config_file(run_dir)), None, 'none')
    layers = [layer for _, layer in binary_layers(build_model(cfg, str(checkpoint)))]
    if not layers:
        return None
    values = torch.cat([layer.libra_pb()[0].flatten() for layer in layers]).numpy()
    limit = 4 * float(values.std())
    density, edges = np.histogram(values, 80, (-limit, limit), density=True)
    # Not in checkpoints, and what the layers start with where no hook sets it.
    ede_values = dict(zip('tk', layers[0].ede.tolist(), strict=True))
    for name in ede_values:
        if name in curves:
            ede_values[name] = float(np.interp(position, *curves[name]))
    return LatentWeights(
        position, edges, density, layers[0].rule.estimator, **ede_values
    )


def training_curves(run: Run, dark: bool = False) -> Figure:
    """Loss, accuracy, t and k of a run.

    Args:
        run (Run): The run.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: A panel for each of the three that the log has.
    """
    panels = {
        'training loss': {'loss': 'loss'},
        'accuracy (%)': {'accuracy/top1': 'top-1', 'accuracy/top5': 'top-5'},
        "EDE's t and k": {'t': 't', 'k': 'k'},
    }
    panels = {k: v for k, v in panels.items() if v.keys() & run.curves.keys()}
    with _styled(dark) as style:
        figure, axes = _axes(len(panels), 1, 1.9 * len(panels), style, sharex=True)
        for axis, (label, lines) in zip(axes[:, 0], panels.items(), strict=True):
            for (name, legend), colour, dash in zip(
                lines.items(), style.curves, _DASHES, strict=False
            ):
                if name in run.curves:
                    x, y = run.curves[name]
                    marker = 'o' if len(x) == 1 else ''
                    axis.plot(x, y, dash, marker=marker, color=colour, label=legend)
            axis.set_ylabel(label)
            if len(axis.lines) > 1:
                axis.legend()
            if label.startswith('EDE'):
                _log_scale(axis)
        axes[-1, 0].set_xlabel(run.unit)
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
    return figure


def _heat_map(axis: Axes, layers: dict[str, Curve], norm: Normalize, unit: str) -> None:
    """A row for each layer, the input's at the top; a column for each record."""
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
    bar.outline.set_visible(False)


def flip_rates(run: Run, dark: bool = False) -> Figure:
    """How many weights change sign between two records of ``BinaryStatsHook``.

    Args:
        run (Run): The run; it has recorded them.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: The share in all layers over iterations, and in each layer.
    """
    x, y = run.curves['binary/flips']
    layers = {
        name: (steps, [100 * v for v in values])
        for name, (steps, values) in by_layer(run.curves, 'flips').items()
    }
    values = np.array([values for _, values in layers.values()])
    # Shares fall by orders of magnitude; zeros get the colour of the lowest.
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
    with _styled(dark) as style:
        figure, ((top,), (bottom,)) = _axes(
            2, 1, height + 2, style, sharex=True, height_ratios=(2, height)
        )
        marker = 'o' if len(x) == 1 else ''
        top.plot(x, [100 * v for v in y], marker=marker, color=style.curves[0])
        top.set_ylabel('all layers (%)')
        if log:
            _log_scale(top)
        top.set_title('weights that changed sign since the last record')
        _heat_map(bottom, layers, norm, '% of the layer')
        bottom.set(xlabel='iteration', ylabel='layer')
    return figure


def entropies(run: Run, dark: bool = False) -> Figure:
    """Entropy of binary weights and activations, by layer and iteration.

    Args:
        run (Run): The run; it has recorded them.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: A heat map for weights and, unless they are in full precision, one
        for activations.
    """
    panels = {
        'binary weights: mean over filters': by_layer(run.curves, 'weight_entropy'),
        'binary activations: mean over input channels': by_layer(
            run.curves, 'input_entropy'
        ),
    }
    panels = {title: layers for title, layers in panels.items() if layers}
    heights = [0.17 * len(layers) + 0.8 for layers in panels.values()]
    with _styled(dark) as style:
        figure, axes = _axes(
            len(panels), 1, sum(heights), style, sharex=True, height_ratios=heights
        )
        for axis, (title, layers) in zip(axes[:, 0], panels.items(), strict=True):
            low = min(min(values) for _, values in layers.values())
            _heat_map(axis, layers, Normalize(min(low, 0.999), 1), 'entropy (bits)')
            axis.set(title=title, ylabel='layer')
        axes[-1, 0].set_xlabel('iteration')
    return figure


def latent_weights(run: Run, dark: bool = False) -> Figure:
    """Histograms of latent weights with the estimator's derivative over them.

    Args:
        run (Run): The run; it has weights.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: A panel for each checkpoint.
    """
    count = len(run.latent)
    with _styled(dark) as style:
        figure, axes = _axes(count, 1, 1.7 * count + 0.8, style, sharex=True)
        for axis, weights in zip(axes[:, 0], run.latent, strict=True):
            axis.stairs(
                weights.density,
                weights.edges,
                fill=True,
                color=style.curves[0],
                alpha=0.6,
                label='weights, balanced and standardised',
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
            title = f'{run.unit} {weights.position}'
            if weights.estimator == 'ede':
                title += f": EDE's t = {_number(weights.t)}, k = {_number(weights.k)}"
            axis.set_title(title)
        axes[-1, 0].set_xlabel('latent weight')
        handles = [axes[0, 0].patches[0], twin.lines[0]]
        formula = {'ede': 'k t (1 - tanh²(t x))', **_NAMES}[run.latent[0].estimator]
        labels = [handles[0].get_label(), f'gradient factor: {formula}']
        figure.legend(handles, labels, loc='outside lower center', ncols=2)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str], dark: bool = False) -> Figure:
    """A confusion matrix.

    Args:
        matrix (np.ndarray): (n, n), int: images by true and by predicted class.
        classes (Sequence[str]): Their n names.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: Shares of each true class in colour, with counts for up to 20 classes.

    Example:
        >>> figure = confusion(np.array([[3, 1], [0, 4]]), ['cat', 'dog'])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3', '1', '4']
    """
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    named = len(matrix) <= 20
    with _styled(dark) as style:
        figure, ((axis,),) = _axes(1, 1, 5.4, style)
        mesh = axis.imshow(shares, cmap='cividis', vmin=0, vmax=100)
        axis.grid(False)
        bar = figure.colorbar(mesh, label='% of the true class')
        bar.ax.tick_params(color=style.rule, labelcolor=style.ink)
        bar.outline.set_visible(False)
        axis.set(xlabel='predicted class', ylabel='true class')
        if named:
            # A dollar sign in a name is no formula.
            ticks = range(len(matrix))
            axis.set_xticks(ticks, classes, rotation=45, ha='right', parse_math=False)
            axis.set_yticks(ticks, classes, parse_math=False)
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    ink = 'black' if shares[row, column] > 50 else 'white'
                    axis.text(column, row, count, color=ink, ha='center', va='center')
    return figure


# --------------------------------------------------------------------------
# Experiments.


def accuracy_curves(runs: dict[str, np.ndarray], dark: bool = False) -> Figure:
    """Accuracy while several configs were trained, each with several seeds.

    Args:
        runs (dict[str, np.ndarray]): By label: (seeds, epochs), accuracy in % after
            each epoch. At most five.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: A line of medians for each, thin ones of the seeds behind it. Single
        evaluations that fail go out of the picture.

    Example:
        >>> figure = accuracy_curves({'IR-Net': np.array([[60, 79], [72, 81]])})
        >>> figure.axes[0].lines[-1].get_ydata().tolist()
        [66.0, 80.0]
    """
    with _styled(dark) as style:
        figure, ((axis,),) = _axes(1, 1, 3.4, style)
        # Strict: a sixth line would look like another.
        used = style.curves[: len(runs)], _DASHES[: len(runs)]
        for values, colour in zip(runs.values(), used[0], strict=True):
            epochs = np.arange(1, values.shape[1] + 1)
            axis.plot(epochs, values.T, color=colour, linewidth=0.5, alpha=0.5)
        for (label, values), colour, dash in zip(runs.items(), *used, strict=True):
            median = np.median(values, 0)
            axis.plot(epochs, median, color=colour, linestyle=dash, label=label)
        every = np.concatenate([values.flatten() for values in runs.values()])
        low, high = np.quantile(every, (0.1, 1))
        axis.set(xlabel='epoch', ylabel='test accuracy (%)', ylim=(low, high + 1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc='outside lower center', ncols=2, fontsize='small')
    return figure


def accuracy_and_costs(
    accuracies: dict[str, Sequence[float]],
    costs: dict[str, dict[str, float]],
    dark: bool = False,
) -> Figure:
    """What accuracy costs.

    Args:
        accuracies (dict[str, Sequence[float]]): By config: of each seed, in %.
        costs (dict[str, dict[str, float]]): By the label of an axis and by config.
        dark (bool): For a dark background. Defaults to False.

    Returns:
        Figure: A panel for each cost: medians, on lines from the lowest to the
        highest. The last one names the configs.
    """
    medians = {name: statistics.median(a) for name, a in accuracies.items()}
    names = sorted(accuracies, key=medians.get)
    y = [medians[name] for name in names]
    margin = 0.06 * max(y[-1] - y[0], 1)
    height, limits = 4.2, (y[0] - margin, y[-1] + margin)
    with _styled(dark) as style:
        widths = [1] * (len(costs) - 1) + [2]
        figure, (axes,) = _axes(
            1, len(costs), height, style, sharey=True, width_ratios=widths
        )
        for axis, (label, values) in zip(axes, costs.items(), strict=True):
            x = [values[name] for name in names]
            ranges = [(min(accuracies[n]), max(accuracies[n])) for n in names]
            axis.vlines(x, *zip(*ranges, strict=True), color=style.curves[0], lw=0.8)
            axis.plot(x, y, 'o', color=style.curves[0], markersize=4)
            axis.set(xlabel=label, ylim=limits)
            if max(x) < 4 * min(x):
                axis.set_xlim(0, 1.15 * max(x))
                continue
            axis.set_xscale('log')
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axis.xaxis.set_major_formatter('{x:g}')
            axis.xaxis.set_minor_formatter('')
            axis.margins(x=0.15)
        axes[0].set_ylabel('test accuracy (%)')
        line = 0.19 / height * (limits[1] - limits[0])  # of text
        right = 1.15 * max(x)
        axis.set_xlim(right=right * (max(x) / min(x)) ** 0.6)
        for name, place, *point in zip(names, _apart(y, line), x, y, strict=True):
            axis.annotate(
                name,
                point,
                (right, place),
                fontsize='x-small',
                va='center',
                arrowprops=dict(arrowstyle='-', color=style.rule, lw=0.6),
            )
    return figure


def _apart(values: Sequence[float], step: float) -> np.ndarray:
    """Rising values, moved as little as it takes to be a step from each other."""
    places = np.array(values, float)
    for _ in range(100):
        overlap = step - np.diff(places)
        if (overlap < 1e-6 * step).all():
            break
        push = np.maximum(overlap, 0) / 2
        places[:-1] -= push
        places[1:] += push
    return places


# --------------------------------------------------------------------------
# All of them.

_NO_STATISTICS = (
    'flip rates and entropies are left out: the run has no statistics of binary '
    "layers; train with custom_hooks=[..., dict(type='BinaryStatsHook', interval=100)]"
)
_NO_SCHEDULE = (
    't and k are left out: the run has no schedule of EDE; train with custom_hooks='
    "[..., dict(type='EDEHook', t_min=0.1, t_max=10)]"
)
_NO_WEIGHTS = (
    'histograms of weights are left out: there are no checkpoints of a binary network; '
    'train with default_hooks.checkpoint.max_keep_ckpts=-1 to keep all'
)


def run_figures(run: Run, dark: bool = False) -> tuple[dict[str, Figure], list[str]]:
    """The standard pictures of a run, as far as it has recorded what they show.

    Args:
        run (Run): The run.
        dark (bool): For dark backgrounds. Defaults to False.

    Returns:
        tuple[dict[str, Figure], list[str]]: The figures by name, and a note on each
        that is left out.
    """
    figures, notes = {'curves': training_curves(run, dark)}, []
    if 't' not in run.curves:
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


def method_figures(dark: bool = False) -> dict[str, Figure]:
    """The method's own pictures by name; they need no run.

    Args:
        dark (bool): For dark backgrounds. Defaults to False.

    Returns:
        dict[str, Figure]: The figures.

    Example:
        >>> list(method_figures())
        ['ede_family', 'ede_stages', 'estimator_errors']
    """
    return {f.__name__: f(dark) for f in (ede_family, ede_stages, estimator_errors)}


def save(figures: dict[str, Figure], folder: str | Path) -> list[Path]:
    """Writes figures as PNG files.

    Args:
        figures (dict[str, Figure]): By name.
        folder (str | Path): Where to; made if it is not there.

    Returns:
        list[Path]: The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f'{name}.png')
        figure.savefig(paths[-1], dpi=150)
    return paths


def save_svg(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG whose text is text; the same one gives the same file.

    Args:
        figure (Figure): The figure.
        path (str | Path): The file.
    """
    with rc_context({'svg.hashsalt': 'mmirnet', 'svg.fonttype': 'none'}):
        figure.savefig(path, format='svg', metadata={'Date': None})
