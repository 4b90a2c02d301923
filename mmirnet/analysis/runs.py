"""Reads the work folder of a run: scalars, config, checkpoints."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import DataError

Curve = tuple[list[float], list[float]]


def _training_logs(run_dir: str | Path) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Returns the ``vis_data`` folders of a run's parts with scalars, oldest first."""
    logs = []
    for file in sorted(Path(run_dir).glob('*/vis_data/scalars.json')):
        lines = _lines(file)
        if any('loss' in line for line in lines):  # otherwise of an evaluation
            logs.append((file.parent, lines))
    if not logs:
        raise FileNotFoundError(f'{run_dir} holds no log of a training run')
    return logs


def _lines(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log, except for an incomplete last line."""
    lines, texts = [], file.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise DataError(f'{file}, line {number}: {error}') from None
    return lines


def read_scalars(run_dir: str | Path) -> tuple[dict[str, Curve], bool]:
    """Reads the scalars that MMEngine wrote for a run.

    A resumed run has one file per part. If parts overlap, the later one is used.

    Args:
        run_dir (str | Path): Work folder of the run.

    Returns:
        tuple[dict[str, Curve], bool]: Positions and values of each scalar, with
        training scalars averaged over each epoch; and whether positions are epochs
        instead of iterations. Those of ``BinaryStatsHook`` are always iterations.

    Raises:
        FileNotFoundError: If there are no scalars of a training run.
        DataError: If a line before the last is not JSON; names it.

    Example:
        >>> curves, by_epoch = read_scalars('work_dirs/quickstart')  # doctest: +SKIP
        >>> curves['k']  # doctest: +SKIP
        ([1, 2, 3], [10.0, 2.15, 1.0])
    """
    points: dict[str, dict[int, list[float]]] = defaultdict(dict)
    by_epoch = False
    for _, lines in _training_logs(run_dir):
        by_epoch = any('epoch' in line for line in lines)
        part: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for line in lines:
            position = line.get('epoch', line['step'])
            for name, value in line.items():
                part[name][position].append(value)
        for name, values in part.items():
            points[name].update(values)
    curves = {
        name: (sorted(values), [sum(v) / len(v) for _, v in sorted(values.items())])
        for name, values in points.items()
    }
    return curves, by_epoch


def by_layer(curves: dict[str, Curve], statistic: str) -> dict[str, Curve]:
    """Selects a statistic of ``BinaryStatsHook`` for each binary layer.

    Args:
        curves (dict[str, Curve]): Output of :func:`read_scalars`.
        statistic (str): Its name, such as ``'flips'``.

    Returns:
        dict[str, Curve]: Its curves by layer name, from input to output. Empty if it
        was not recorded.

    Example:
        >>> curve = ([100], [0.07])
        >>> by_layer({'binary/flips': curve, 'binary/layer1/flips': curve}, 'flips')
        {'layer1': ([100], [0.07])}
    """
    pattern = re.compile(rf'binary/(.+)/{re.escape(statistic)}')
    found = {name: pattern.fullmatch(name) for name in curves}
    return {match[1]: curves[name] for name, match in found.items() if match}


def config_file(run_dir: str | Path) -> Path:
    """Returns the config of the run's last training, without inheritance.

    Args:
        run_dir (str | Path): Work folder of the run.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = _training_logs(run_dir)[-1][0] / 'config.py'
    if not path.is_file():
        raise FileNotFoundError(f'{run_dir} holds no config: there is no file {path}')
    return path


def environment(run_dir: str | Path) -> dict[str, str]:
    """Reads the description of the machine in the log of a run's last part.

    Args:
        run_dir (str | Path): Work folder of the run.

    Returns:
        dict[str, str]: MMEngine's description, such as
        ``{'PyTorch': '2.15.0', 'MMEngine': '0.10.7'}``. Empty without a text log.
    """
    folder = _training_logs(run_dir)[-1][0].parent
    values: dict[str, str] = {}
    for log in sorted(folder.glob('*.log'))[:1]:
        head, _, _ = log.read_text(errors='replace').partition(' - Config:')
        values.update(re.findall(r'^    (\w[\w .]*): (.*\S)', head, re.MULTILINE))
    return values


def checkpoints(run_dir: str | Path, by_epoch: bool) -> dict[int, Path]:
    """Returns the checkpoints of a run by epoch or iteration, in order.

    Args:
        run_dir (str | Path): Work folder of the run.
        by_epoch (bool): Whether to return those of epochs instead of iterations.

    Returns:
        dict[int, Path]: The files. Empty if there are none.
    """
    unit = 'epoch' if by_epoch else 'iter'
    found = {
        int(path.stem.rpartition('_')[2]): path
        for path in Path(run_dir).glob(f'{unit}_*.pth')
        if path.stem.rpartition('_')[2].isdigit()
    }
    return dict(sorted(found.items()))
