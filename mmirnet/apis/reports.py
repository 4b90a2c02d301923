"""Writes reports on runs from their folders and from measurements."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.evaluation import ConfusionMatrix

from ..analysis import plots, runs
from ..analysis.cost.count import Summary, summary
from ..analysis.cost.measure import packed_bytes, seconds_an_image
from ..analysis.cost.table import cells, short
from ..analysis.page import Example, Picture, RunReport, png_uri, render, svg_uri
from ..engine.checkpoint import find_intact_checkpoint
from ..engine.config import load_config
from ..engine.facts import Facts, channel_order, gather, reverses_channels
from ..errors import ConfigError, MmirnetError
from ..files import check_writable
from ..packed import pack
from ..runtime import Session
from .evaluation import evaluate, json_value

#: Number of correct and of wrong predictions in the report of a run.
EXAMPLES = 8
#: Titles of the plots.
_CAPTIONS = {
    'curves': 'Loss, accuracy, and what moves with training in the binary layers.',
    'flips': 'Share of the weights whose sign changed between two records.',
    'entropy': 'Entropy of signs: 1 bit if +1 and -1 are equally frequent.',
    'weights': 'What binary weights are the sign of, and what the estimator '
    'multiplies their gradients by.',
}
#: Row titles for the statistics of BinaryStatsHook.
_STATISTICS = {
    'flips': 'weights flipped since the record before',
    'weight_entropy': 'entropy of weights (bits)',
    'weight_error': 'estimating error at weights',
    'weight_factor': 'mean gradient factor at weights',
    'gradient_variance': 'variance of gradient magnitudes',
    'input_entropy': 'entropy of activations (bits)',
    'input_dead': 'channels that never change sign',
    'input_saturated': 'saturated activations',
    'input_error': 'estimating error at activations',
    'input_factor': 'mean gradient factor at activations',
}
_PRECISION = {
    'OptimWrapper': 'float32',
    'AmpOptimWrapper': 'float16',
    'Bf16OptimWrapper': 'bfloat16',
}
_VERSIONS = ('Python', 'PyTorch', 'TorchVision', 'MMEngine')
_SHARES = ('flips', 'input_dead', 'input_saturated')


class Predictions(NamedTuple):
    """Predictions of a checkpoint on the test set of a config.

    Attributes:
        metrics (dict): Output of the config's evaluator.
        labels (np.ndarray | None): (N,), int64. None for several labels per image.
        scores (np.ndarray): (N, classes), float32, probabilities.
        dataset (Dataset): The data set of the images, in the same order.
        classes (list[str]): Class names.
    """

    metrics: dict[str, float]
    labels: np.ndarray | None
    scores: np.ndarray
    dataset: Any
    classes: list[str]


def write_report(
    run_dirs: Sequence[str | Path],
    out: str | Path | None = None,
    checkpoint: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> Path:
    """Writes a report on one or several runs, side by side.

    The function evaluates the networks on their test sets, packs and times them.

    Args:
        run_dirs (Sequence[str | Path]): Work folders of the runs.
        out (str | Path, optional): The page. Defaults to ``report.html`` in the folder
            of the only run, or in the current folder for several runs.
        checkpoint (str | Path, optional): Checkpoint, for a single run. Defaults to the
            newest intact one of each run.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of each run's test pipeline.

    Returns:
        Path: The page.

    Raises:
        FileNotFoundError: If a folder contains no run, or a checkpoint is missing.
        ValueError: If a checkpoint is given for several runs, or does not fit.

    Example:
        >>> write_report(['work_dirs/quickstart'])  # doctest: +SKIP
        PosixPath('report.html')
    """
    if checkpoint is not None and len(run_dirs) > 1:
        raise ConfigError('--checkpoint names a file of one run; give one RUN_DIR')
    if out is None:
        out = Path(run_dirs[0] if len(run_dirs) == 1 else '') / 'report.html'
    check_writable(out)
    reports = [report_run(folder, checkpoint, size) for folder in run_dirs]
    out = Path(out)
    out.write_text(render(reports), encoding='utf-8')
    return out


def report_run(
    run_dir: str | Path,
    checkpoint: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> RunReport:
    """Collects the content of the page for one run.

    Args:
        run_dir (str | Path): Work folder of the run.
        checkpoint (str | Path, optional): Defaults to its newest intact checkpoint.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test pipeline.

    Returns:
        RunReport: The report.

    Raises:
        FileNotFoundError: If there is no run or no checkpoint.
        ValueError: If the checkpoint does not fit.
    """
    run = plots.read_run(run_dir)
    config = str(runs.config_file(run_dir))
    checkpoint = checkpoint or find_intact_checkpoint(run_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'{run_dir} has no intact checkpoint')
    cfg = load_config(config, None, 'none')
    facts = gather(cfg, str(checkpoint), size=size)
    costs = summary(facts.model, (facts.channels, *facts.size))
    pictures, notes = _pictures(run)
    results, right, wrong = {}, [], []
    try:
        predictions = predict(config, str(checkpoint), facts)
    except (FileNotFoundError, ImportError) as error:
        notes.append(f'accuracy and predictions are left out: {error}')
    else:
        results = _metrics(predictions)
        if predictions.labels is None:
            notes.append('images of several classes: no matrix, no examples')
        else:
            pictures['confusion'] = _confusion(predictions)
            turned = facts.channels == 3 and reverses_channels(facts.model)
            order = channel_order(facts.dataset, turned)
            right, wrong = examples(predictions, order)
    results |= _costs(costs)
    try:
        results |= deployment(facts)
    except (MmirnetError, ImportError) as error:
        notes.append(f'packed file and runtime are left out: {error}')
    return RunReport(
        name=run.name,
        settings=settings(run_dir, cfg, costs) | {'checkpoint': Path(checkpoint).name},
        results=results,
        pictures=pictures,
        statistics=_last_statistics(run),
        rows=[cells(layer) for layer in [*costs.layers, costs.total]],
        comparison=costs.comparison(),
        right=right,
        wrong=wrong,
        notes=notes,
    )


def _pictures(run: plots.Run) -> tuple[dict[str, Picture], list[str]]:
    """Draws the standard plots of a run; also returns a note on each missing one."""
    figures, notes = plots.run_figures(run)
    darks, _ = plots.run_figures(run, dark=True)
    return {
        name: Picture(svg_uri(figure), svg_uri(darks[name]), _CAPTIONS[name])
        for name, figure in figures.items()
    }, notes


def settings(run_dir: str | Path, cfg: Config, summary: Summary) -> dict[str, str]:
    """Describes the settings that affect the result.

    Args:
        run_dir (str | Path): Work folder of the run.
        cfg (Config): Its config.
        summary (Summary): Summary of its model.

    Returns:
        dict[str, str]: Descriptions by name of the setting.
    """
    # Models of other libraries have no backbone with a type.
    backbone, train = cfg.model.get('backbone') or cfg.model, cfg.train_dataloader
    network, depth = _name(backbone['type']), backbone.get('depth')
    hooks = {_name(hook['type']): hook for hook in cfg.get('custom_hooks') or []}
    wrapper = _name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    environment = runs.environment(run_dir)
    schedules = cfg.get('param_scheduler') or []
    schedules = [schedules] if isinstance(schedules, dict) else schedules
    values = {
        'config': next((path.stem for path in Path(run_dir).glob('*.py')), ''),
        'network': f'{network}-{depth}' if depth else network,
        'structure': backbone.get('structure', ''),
        'W/A bits': summary.total.bits,
        'binary layers': _arguments(backbone.get('conv_cfg') or {}),
        'EDE': _arguments(hooks.get('EDEHook', {}), skip='type'),
        'schedule of binary layers': _arguments(
            hooks.get('ScheduleHook', {}), skip='type'
        ),
        'data set': _data_set(train.dataset),
        'batch size': _batch_size(train.get('batch_size', ''), environment),
        'length': _length(cfg.train_cfg),
        'optimizer': _arguments(cfg.optim_wrapper.get('optimizer') or {}),
        'precision': _PRECISION.get(wrapper, wrapper),
        'schedule': ', then '.join(_arguments(schedule) for schedule in schedules),
        'seed': environment.get('seed', ''),
        'trained on': _device(environment),
    }
    # Python's version, without compiler and date.
    values |= {name: environment.get(name, '').split(' ')[0] for name in _VERSIONS}
    return {name: str(value) for name, value in values.items() if value != ''}


def _batch_size(size: int, environment: dict[str, str]) -> str:
    processes = environment.get('GPU number', '1')  # MMEngine's term for processes
    return str(size) if processes == '1' else f'{size} on each of {processes} processes'


def _device(environment: dict[str, str]) -> str:
    gpus = [v for name, v in environment.items() if name.startswith('GPU 0')]
    return gpus[0] if gpus else 'CPU' if environment else ''


def _name(kind: str | type) -> str:
    """Returns the name of a type, which may be a class or a dotted path."""
    kind = kind if isinstance(kind, str) else kind.__name__
    return kind.rpartition('.')[2]


def _data_set(dataset: dict) -> str:
    """Returns the types of the innermost data sets."""
    inner = dataset.get('datasets') or dataset.get('dataset')
    if not inner:
        return _name(dataset['type'])
    inner = [inner] if isinstance(inner, dict) else inner
    return ' + '.join(dict.fromkeys(map(_data_set, inner)))


def _length(loop: dict) -> str:
    unit = 'epochs' if 'max_epochs' in loop else 'iters'
    return f'{loop[f"max_{unit}"]:,} {unit.replace("iters", "iterations")}'


def _arguments(spec: dict, skip: str = '') -> str:
    """Formats a dict of a config: its type, then its arguments."""
    chosen = {name: value for name, value in spec.items() if name != skip}
    kind = chosen.pop('type', None)
    words = [f'{name} {value}' for name, value in chosen.items()]
    return ', '.join(([_name(kind)] if kind else []) + words)


def _last_statistics(run: plots.Run) -> dict[str, str]:
    """Returns the last record of BinaryStatsHook over all layers."""
    values = {}
    for name, words in _STATISTICS.items():
        if curve := run.curves.get(f'binary/{name}'):
            values.setdefault('recorded at iteration', f'{curve[0][-1]:,}')
            value = curve[1][-1]
            values[words] = (
                f'{100 * value:.2f} %' if name in _SHARES else f'{value:.4g}'
            )
    return values


def _costs(summary: Summary) -> dict[str, str]:
    total = summary.total
    return {
        'parameters': f'{total.parameters:,}',
        'operations (OPs)': short(total.ops),
        'the same in fp32': short(summary.full_precision_ops),
        'weights in fp32': short(total.bytes_fp32, 'B'),
    }


def predict(config: str, checkpoint: str, facts: Facts) -> Predictions:
    """Evaluates a checkpoint on the test set of a config.

    Args:
        config (str): As in ``mmirnet.apis.evaluate``.
        checkpoint (str): Its checkpoint.
        facts (Facts): Facts about both.

    Returns:
        Predictions: Metrics and all predictions.

    Raises:
        FileNotFoundError: If the data do not exist.
        ValueError: If the checkpoint does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'predictions.pkl')
        options = dict(
            log_level='ERROR',
            resume=False,
            compile=False,
            # MMEngine has one logger per name, and each evaluation needs its own.
            experiment_name=f'report-{os.path.basename(folder)}',
        )
        metrics = evaluate(
            config, checkpoint, work_dir=folder, out=file, cfg_options=options
        )
        samples = mmengine.load(file)
    scores = np.stack([sample['pred_score'].numpy() for sample in samples])
    classes = facts.classes or list(map(str, range(facts.outputs)))
    labels = None
    if facts.kind == 'softmax' and all('gt_label' in sample for sample in samples):
        labels = np.array([int(sample['gt_label'][0]) for sample in samples])
    return Predictions(metrics, labels, scores, facts.dataset, classes)


def _metrics(predictions: Predictions) -> dict[str, str]:
    """Formats the metrics that are numbers, and the number of test images."""
    metrics = {
        f'{name} (%)': f'{value:.2f}'
        for name, value in json_value(predictions.metrics).items()
        if isinstance(value, int | float)
    }
    return metrics | {'test images': f'{len(predictions.scores):,}'}


def _confusion(predictions: Predictions) -> Picture:
    """Draws the confusion matrix."""
    matrix = ConfusionMatrix.calculate(
        torch.from_numpy(predictions.scores),
        torch.from_numpy(predictions.labels),
        num_classes=len(predictions.classes),
    ).numpy()
    light, dark = (
        svg_uri(plots.confusion(matrix, predictions.classes, dark))
        for dark in (False, True)
    )
    caption = f'Test images by class; {len(predictions.scores):,} in all.'
    return Picture(light, dark, caption)


def examples(
    predictions: Predictions, order: str
) -> tuple[list[Example], list[Example]]:
    """Selects correct predictions, and wrong ones with the highest probability.

    Args:
        predictions (Predictions): All predictions.
        order (str): Channel order of the data set's images, such as ``'bgr'``.

    Returns:
        tuple[list[Example], list[Example]]: Correct predictions, evenly spaced over the
        test set, and wrong ones by decreasing probability, up to 8 each.
    """
    scores = predictions.scores
    predicted = scores.argmax(1)
    right = np.flatnonzero(predicted == predictions.labels)
    wrong = np.flatnonzero(predicted != predictions.labels)
    spaced = np.linspace(0, len(right) - 1, min(EXAMPLES, len(right))).astype(int)
    surest = wrong[np.argsort(-scores.max(1)[wrong], kind='stable')][:EXAMPLES]

    def example(index: int) -> Example:
        image = predictions.dataset[int(index)]['inputs'].numpy().transpose(1, 2, 0)
        return Example(
            image=png_uri(image[..., ::-1] if order == 'bgr' else image),
            pixelated=max(image.shape) <= 64,
            true=predictions.classes[predictions.labels[index]],
            predicted=predictions.classes[predicted[index]],
            probability=100 * float(scores[index].max()),
        )

    return [example(i) for i in right[spaced]], [example(i) for i in surest]


def deployment(facts: Facts) -> dict[str, str]:
    """Packs a checkpoint and times it on the 1-bit runtime on this machine.

    Args:
        facts (Facts): Facts about the run's config and checkpoint.

    Returns:
        dict[str, str]: Size of the packed file and latency of one image.

    Raises:
        UnsupportedModelError: If the packed format does not support a layer.
        ImportError: If the runtime was not built.
    """
    packed = pack(facts.model, facts.size)
    session = Session(packed, threads=1)
    low, median, high = seconds_an_image(session)
    return {
        'packed file (weights and graph)': short(packed_bytes(packed), 'B'),
        'runtime, one image, one thread': f'{1e3 * median:.3g} ms '
        f'(quartiles {1e3 * low:.3g} to {1e3 * high:.3g})',
        'instruction set': session.isa,
    }
