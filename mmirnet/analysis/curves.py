"""A run's curves from its log: loss, accuracy, and EDE's t and k."""

import json
from collections import defaultdict
from pathlib import Path

#: Okabe and Ito's colours, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE = '#0072B2', '#E69F00', '#009E73', '#CC79A7'

Curve = tuple[list[float], list[float]]


def read_scalars(work_dir: str | Path) -> tuple[dict[str, Curve], bool]:
    """Reads the scalars that MMEngine wrote for a run.

    A run that was resumed has a file for each part; where parts overlap, the later
    one counts.

    Args:
        work_dir (str | Path): The run's working folder.

    Returns:
        tuple[dict[str, Curve], bool]: For each scalar its positions and values, with
        training scalars averaged over each epoch, and whether positions are epochs
        (else iterations).

    Raises:
        FileNotFoundError: If there are no scalars of a training run.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    points: dict[str, dict[int, list[float]]] = defaultdict(dict)
    by_epoch = False
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if not any('loss' in line for line in lines):
            continue  # of an evaluation
        by_epoch = any('epoch' in line for line in lines)
        part: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for line in lines:
            position = line.get('epoch', line['step'])
            for name, value in line.items():
                part[name][position].append(value)
        for name, values in part.items():
            points[name].update(values)
    if not points:
        raise FileNotFoundError(f'{work_dir} holds no log of a training run')
    curves = {
        name: (sorted(values), [sum(v) / len(v) for _, v in sorted(values.items())])
        for name, values in points.items()
    }
    return curves, by_epoch


def plot_curves(work_dir: str | Path, out: str | Path | None = None) -> Path:
    """Draws loss, accuracy, t and k of a run over its epochs.

    Args:
        work_dir (str | Path): The run's working folder.
        out (str | Path, optional): The picture's file. Defaults to ``curves.png``
            in ``work_dir``.

    Returns:
        Path: The picture's file.

    Raises:
        FileNotFoundError: If there are no scalars of a training run.

    Example:
        >>> plot_curves('work_dirs/resnet20_bireal_digits')  # doctest: +SKIP
        PosixPath('work_dirs/resnet20_bireal_digits/curves.png')
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves, by_epoch = read_scalars(work_dir)
    panels = [
        ('training loss', 'linear', {'loss': ('loss', BLUE, '-')}),
        (
            'accuracy (%)',
            'linear',
            {
                'accuracy/top1': ('top-1', GREEN, '-'),
                'accuracy/top5': ('top-5', PURPLE, '--'),
            },
        ),
        (
            "EDE's t and k",
            'log',
            {'t': ('t', ORANGE, '-'), 'k': ('k', BLUE, '--')},
        ),
    ]
    panels = [panel for panel in panels if panel[2].keys() & curves.keys()]

    figure = Figure(figsize=(7, 2.2 * len(panels) + 0.6), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (label, scale, lines) in zip(axes, panels, strict=True):
        for name, (legend, colour, style) in lines.items():
            if name in curves:
                x, y = curves[name]
                marker = 'o' if len(x) == 1 else ''
                axis.plot(x, y, style, marker=marker, color=colour, label=legend)
        axis.set_ylabel(label)
        axis.set_yscale(scale)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend()
    axes[-1].set_xlabel('epoch' if by_epoch else 'iteration')
    figure.align_ylabels()
    figure.suptitle(Path(work_dir).resolve().name)
    out = Path(out or Path(work_dir) / 'curves.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out
