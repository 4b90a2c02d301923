"""Publishes checkpoints: packs, evaluates and adds them to a zoo.

A zoo is a folder of packed files and logs with an ``index.json``, which a web server
can serve as it is.
"""

import datetime
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..analysis.runs import read_scalars
from ..datasets.copies import cifar10_copy
from ..datasets.in_memory import is_in_memory, keep_in_memory
from ..engine import facts
from ..engine.checkpoint import load_checkpoint_file
from ..engine.config import add_default_hooks, load_config
from ..errors import CheckpointError, PackedFileError
from ..files import check_writable, write_atomic
from ..zoo import metafile
from ..zoo.index import Entry, check_model_name, parse_index, render_index
from ..zoo.names import dataset_of, folders
from .evaluation import evaluate, json_value
from .packing import pack_checkpoint

# Settings that tools/train.py makes for this machine or from its arguments.
_SETTLED = {'launcher', 'work_dir', 'collate_fn', 'pin_memory', 'persistent_workers'}


def publish(
    config: str,
    checkpoint: str,
    zoo: str | os.PathLike = 'zoo',
    *,
    log: str | os.PathLike | None = None,
    command: str | None = None,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    ends: str = 'fp32',
) -> str:
    """Adds a trained checkpoint to a zoo, and replaces an older one of the same name.

    The function packs the checkpoint without optimizer and log, and evaluates the
    packed file on the test set of the config, in simulation and on the 1-bit runtime.
    Both results are in the index, and for 8-bit ends that of float ones. The file has
    the name of the config and the first eight digits of its SHA-256.

    Args:
        config (str): The config. Its name without suffix is that of the model.
        checkpoint (str): A checkpoint that training wrote.
        zoo (str | os.PathLike): Folder of the zoo. Defaults to ``zoo``.
        log (str | os.PathLike, optional): Work folder of the run. Defaults to the
            folder of the checkpoint.
        command (str, optional): Command that trained it. Defaults to one that is
            derived from the differences between the run's config and the config file.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test pipeline.
        classes (Sequence[str], optional): Class names. Defaults to those of the
            checkpoint, or else of the data set.
        ends (str): 'fp32', or 'int8' for 8-bit integers in the float layers, whose
            ranges the config's training set shows. Defaults to 'fp32'.

    Returns:
        str: A report with file and metrics, and whether the metafile was written.

    Raises:
        ValueError: If the checkpoint is damaged, of another architecture, or not
            written by training.
        FileNotFoundError: If config, checkpoint, data or log do not exist.

    Example:
        >>> publish(
        ...     'configs/irnet/resnet20_bireal_digits.py',
        ...     'work_dirs/resnet20_bireal_digits/epoch_30.pth',
        ... )  # doctest: +SKIP
    """
    zoo, name = Path(zoo), Path(config).stem
    check_model_name(name, f'config {config}: ')
    index = zoo / 'index.json'
    check_writable(index)
    entries = parse_index(index.read_bytes(), str(zoo)) if index.is_file() else {}
    meta = load_checkpoint_file(checkpoint, 'cpu').get('meta', {})
    if missing := {'cfg', 'epoch', 'seed', 'time'} - meta.keys():
        raise CheckpointError(f'{checkpoint} has no training run: no {min(missing)}')
    lines = short_log(log or Path(checkpoint).parent)
    how = dict(size=size, classes=classes)
    data, measured = _pack_and_evaluate(config, checkpoint, ends, how)
    digest = hashlib.sha256(data).hexdigest()
    stem = f'{name}-{digest[:8]}'
    entry = Entry(
        file=f'{stem}.safetensors',
        bytes=len(data),
        sha256=digest,
        config='/'.join(Path(config.partition('::')[2] or config).parts[-2:]),
        **_test_data(config),
        **measured,
        ends=None if ends == 'fp32' else ends,
        epochs=meta['epoch'],
        seed=meta['seed'],
        date=str(datetime.datetime.strptime(meta['time'][:8], '%Y%m%d').date()),
        command=command or training_command(config, meta['cfg']),
        log=f'{stem}.jsonl',
    )
    _replace(zoo, entries, name, entry, {entry.file: data, entry.log: lines.encode()})
    results = ''.join(
        f', {metric} {value:.2f} in simulation, '
        f'{entry.runtime_metrics[metric]:.2f} on the runtime'
        for metric, value in entry.metrics.items()
    )
    return (
        f'{zoo / entry.file}: {len(data):,} bytes, {entry.dataset}{results}\n'
        f'{_write_metafile(zoo, name)}'
    )


def _pack_and_evaluate(
    config: str, checkpoint: str, ends: str, how: dict[str, Any]
) -> tuple[bytes, dict[str, dict[str, float] | None]]:
    """Returns the content of the packed file, and the metrics of its entry."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / f'{Path(config).stem}.safetensors'
        pack_checkpoint(config, checkpoint, packed, **how, ends=ends)
        simulated, on_runtime = (_metrics(config, packed, r) for r in (False, True))
        data = packed.read_bytes()
        in_floats = None
        if ends != 'fp32':
            pack_checkpoint(config, checkpoint, packed, **how)
            in_floats = _metrics(config, packed, True)
    _check_equal(simulated, on_runtime)
    return data, dict(
        metrics=simulated, runtime_metrics=on_runtime, fp32_metrics=in_floats
    )


def _test_data(config: str) -> dict[str, str | None]:
    """Returns the name of the data set in an entry, and the copy of CIFAR-10."""
    parts = facts.parts(facts.evaluation_set(load_config(config, None, 'none')))
    kinds = [getattr(part, 'sources', [type(part).__name__]) for part in parts]
    kinds = dict.fromkeys(kind for several in kinds for kind in several)
    dataset = dataset_of(Path(config).stem) or ' + '.join(kinds)
    return dict(dataset=dataset, copy=cifar10_copy(parts[0]))


def _replace(
    zoo: Path, entries: dict[str, Entry], name: str, entry: Entry, files: dict
) -> None:
    """Writes files and index of a zoo, and removes the files of the old entry."""
    old, entries[name] = entries.get(name), entry
    text = f'{render_index(entries)}\n'.encode()
    parse_index(text, str(zoo))  # checks that the index can be read
    # The index is written last, so that it never names missing files.
    for file, content in files.items():
        write_atomic(zoo / file, content)
    write_atomic(zoo / 'index.json', text)
    if old is not None:
        for outdated in {old.file, old.log} - {*files, None}:
            (zoo / outdated).unlink(missing_ok=True)


def _metrics(config: str, packed: Path, runtime: bool) -> dict[str, float]:
    """Evaluates a packed file on the test set of the config."""
    metrics = evaluate(
        config,
        str(packed),
        work_dir=str(packed.parent),
        # MMEngine gives runs of one name and second the same log, deleted later.
        cfg_options={'experiment_name': f'{packed.parent.name}-{runtime}'},
        runtime=runtime,
    )
    return {
        key: round(float(value), 4)
        for key, value in json_value(metrics).items()
        if isinstance(value, int | float)  # not a confusion matrix
    }


def _check_equal(simulated: dict[str, float], on_runtime: dict[str, float]) -> None:
    """Refuses a file whose predictions depend on what runs it.

    The two sum float layers in different orders. Where that decides between two nearly
    equal scores, one image in a thousand may differ.
    """
    for key, value in simulated.items():
        if abs(on_runtime[key] - value) > 0.1:
            raise PackedFileError(
                f'{key} of the packed file is {value} in simulation, but '
                f'{on_runtime[key]} on the 1-bit runtime'
            )


def short_log(run_dir: str | os.PathLike) -> str:
    """Shortens the log of a run to one JSON line per epoch.

    Args:
        run_dir (str | os.PathLike): Work folder of the run.

    Returns:
        str: Lines with epoch, mean training loss, learning rate, t, k, and the metrics
        of the validation.

    Raises:
        FileNotFoundError: If there is no log of a training run.
    """
    curves, by_epoch = read_scalars(run_dir)
    rows: dict[float, dict] = {}
    for name in sorted(curves):
        kept = name in ('loss', 'lr', 't', 'k') or '/' in name
        for position, value in zip(*curves[name], strict=True) if kept else ():
            row = rows.setdefault(position, {'epoch' if by_epoch else 'iter': position})
            row[name] = float(f'{value:.6g}')
    return ''.join(f'{json.dumps(rows[position])}\n' for position in sorted(rows))


def training_command(config: str, run_cfg: str) -> str:
    """Derives the command that trained a run.

    Args:
        config (str): The config file that was trained.
        run_cfg (str): Text of the run's config, from its checkpoint.

    Returns:
        str: ``python tools/train.py`` with the changes of the run as options.
    """
    ran = Config.fromstring(run_cfg, '.py')
    written = load_config(config, None, 'none')
    add_default_hooks(written)
    flags = []
    loaders = [k for k in ('train_dataloader', 'val_dataloader') if ran.get(k)]
    if any(is_in_memory(ran[k]) and not is_in_memory(written[k]) for k in loaders):
        flags.append('--in-memory')
        for key in loaders:
            keep_in_memory(written[key])
    if ran.get('resume'):
        ran.resume, ran.load_from = False, None  # for a resumed run
    settings = _settings(written)
    changed = {
        key: value
        for key, value in _settings(ran).items()
        if settings.get(key) != value and _SETTLED.isdisjoint(key.split('.'))
    }
    for key in [k for k in changed if k.startswith('default_hooks.compile.')]:
        if changed[key] == 'CompileHook':
            flags.append('--compile')
            del changed[key]
    command = ['python', 'tools/train.py', config, *flags]
    if changed:
        command += ['--cfg-options', *(f'{k}={v}' for k, v in changed.items())]
    return shlex.join(command)


def _settings(cfg: Any, prefix: str = '') -> dict[str, Any]:
    """Returns the values of a config by dotted key."""
    values = {}
    for key, value in cfg.items():
        if isinstance(value, dict) and value:
            values |= _settings(value, f'{prefix}{key}.')
        else:
            values[f'{prefix}{key}'] = value
    return values


def _write_metafile(zoo: Path, name: str) -> str:
    # The metafile lists the models in the checkout's own zoo.
    if zoo.resolve() != (metafile.ROOT / 'zoo').resolve():
        return f'metafile.yml: left as it is, it lists {metafile.ROOT / "zoo"}'
    folder = folders().get(name)
    if folder is None:
        return f'metafile.yml: none lists {name}'
    return f'{metafile.write(folder)}: written'
