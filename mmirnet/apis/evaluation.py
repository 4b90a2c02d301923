"""Evaluation, as in ``tools/test.py``."""

import inspect
import logging
from typing import Any

import mmengine
import numpy as np
import torch
from mmcv.transforms import RandomFlip, TestTimeAug
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmpretrain.datasets import PackInputs
from torch.utils.data import Dataset

from ..datasets.in_memory import read_each_image
from ..engine.changes import warn_of_changes
from ..engine.checkpoint import handed_over
from ..engine.config import load_config, merge_options, take_old_switches
from ..engine.facts import parts
from ..engine.weights import check_checkpoint
from ..errors import ConfigError
from ..files import check_writable
from ..registry import find_class
from .running import build_runner, prepare_config

_log = logging.getLogger('mmirnet')
_PICKLES = ('.pkl', '.pickle')


def evaluate(
    config: str,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    out_item: str | None = None,
    amp: bool = False,
    show: bool = False,
    show_dir: str | None = None,
    interval: int = 1,
    wait_time: float = 2.0,
    tta: bool = False,
    runtime: bool = False,
    no_pin_memory: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> dict:
    """Evaluates a checkpoint on the test set of a config.

    Args:
        config (str): As in `train`.
        checkpoint (str): A checkpoint whose weights all fit the model, or a packed file
            (``.safetensors``), which contains its network.
        work_dir (str, optional): As in `train`.
        out (str, optional): File for the predictions or the metrics.
        out_item (str, optional): Content of ``out``: ``'pred'`` (``.pkl``) or
            ``'metrics'`` (``.json``, ``.yaml`` or ``.pkl``). Defaults to ``'pred'``.
        amp (bool): Automatic mixed precision. Defaults to False.
        show (bool): Show the predictions in a window. Defaults to False.
        show_dir (str, optional): Folder for pictures of the predictions.
        interval (int): Draw every n-th image. Defaults to 1.
        wait_time (float): Seconds to show each window. Defaults to 2.
        tta (bool): Test-time augmentation with the config's ``tta_model`` and
            ``tta_pipeline``, or else with a horizontal flip. Defaults to False.
        runtime (bool): Run a packed file on the 1-bit runtime, on the CPU, instead of
            simulating it. Defaults to False.
        no_pin_memory (bool): As in `train`.
        cfg_options (dict, optional): As in `train`.
        launcher (str): As in `train`.

    Returns:
        dict[str, float]: The metrics by name.

    Raises:
        ValueError: If an argument or a setting of the config is invalid.
        FileNotFoundError: If the config, the data or the checkpoint does not exist.
    """
    if interval < 1:
        raise ConfigError(f'--interval {interval}: draw one image in 1 or more')
    _check_output(out, out_item, config, checkpoint)
    cfg = load_config(config, work_dir, launcher)
    merge_options(cfg, cfg_options)
    _settle_test_set(cfg, config)
    packed = checkpoint.endswith('.safetensors')
    if runtime and not packed:
        raise ConfigError(f'--runtime needs a packed file, not {checkpoint}')
    cfg.load_from = None if packed else checkpoint
    cfg.resume = False  # set in the config of a resumed run
    if amp:
        cfg.test_cfg.fp16 = True
    if show or show_dir:
        cfg.default_hooks.visualization = dict(
            type='VisualizationHook',
            enable=True,
            interval=interval,
            show=show,
            out_dir=show_dir,
            wait_time=wait_time,
        )
    in_memory = take_old_switches(cfg) and not tta
    if tta:
        read_each_image(cfg.test_dataloader)
    if packed:  # the averaged weights were chosen when it was packed
        _leave_out_hooks(cfg, EMAHook)
    loaders = ('test_dataloader',)
    prepare_config(
        cfg, None, loaders, pin_memory=not no_pin_memory, in_memory=in_memory
    )
    runner = build_runner(cfg, loaders)
    loaded = None
    if packed:
        from .packing import replace_network, warn_of_other_images  # needs safetensors

        replace_network(runner.model, checkpoint, runtime)
        dataset = runner.test_loop.dataloader.dataset
        warn_of_other_images(runner.model, dataset, checkpoint)
    else:
        loaded = check_checkpoint(checkpoint, runner.model)
        warn_of_changes(loaded, cfg, checkpoint)
    if tta:
        _average_over_flips(runner)
    if out and out_item != 'metrics':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
    with handed_over(checkpoint, loaded):
        metrics = runner.test()
    if out and out_item == 'metrics' and is_main_process():
        mmengine.dump(metrics if out.endswith(_PICKLES) else json_value(metrics), out)
    return metrics


def _check_output(out: str | None, out_item: str | None, *sources: str) -> None:
    """Checks the file for the results, before they are computed."""
    if not out:
        if out_item:
            raise ConfigError('--out-item needs --out FILE')
        return
    texts = ('.json', '.yaml', '.yml') if out_item == 'metrics' else ()
    suffixes = texts + _PICKLES
    if not out.endswith(suffixes):
        hint = '' if out_item else '; for metrics add --out-item metrics'
        raise ConfigError(
            f'--out {out}: the name must end in {", ".join(suffixes)}{hint}'
        )
    check_writable(out, *sources)


def json_value(value: Any) -> Any:
    """Converts a result to numbers, strings, lists and dicts, for JSON and YAML.

    Args:
        value (Any): Metrics of any evaluator, with tensors, arrays and containers.

    Returns:
        Any: The same value in plain Python types.

    Example:
        >>> json_value({'matrix': torch.eye(2), 'top': (np.float32(0.5), None)})
        {'matrix': [[1.0, 0.0], [0.0, 1.0]], 'top': [0.5, None]}
    """
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        return json_value(value.tolist())
    if isinstance(value, dict):
        keys = (k if isinstance(k, str) else str(json_value(k)) for k in value)
        return dict(zip(keys, map(json_value, value.values()), strict=True))
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _leave_out_hooks(cfg: Config, kind: type[Hook]) -> None:
    """Removes the hooks of a class from a config."""

    def is_left(hook: dict) -> bool:
        found = find_class(HOOKS, hook.get('type')) if isinstance(hook, dict) else hook
        return not (inspect.isclass(found) and issubclass(found, kind))

    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if is_left(h)]
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {key: h for key, h in hooks.items() if h is None or is_left(h)}


def _settle_test_set(cfg: Config, config: str) -> None:
    """Uses the validation set if the config has no test set."""
    for phase in ('test', 'val'):
        loader = cfg.get(f'{phase}_dataloader')
        if loader is None:
            continue
        if not isinstance(loader, dict):
            raise ConfigError(
                f'{phase}_dataloader of {config} is a list of {len(loader)}: name one '
                f"data set's loader alone"
            )
        evaluator = cfg.get(f'{phase}_evaluator')
        if evaluator is None:
            raise ConfigError(
                f'{config} has {phase}_dataloader, but no {phase}_evaluator: add one, '
                "such as dict(type='Accuracy')"
            )
        if phase == 'val':
            _log.warning('%s has no test_dataloader: val_dataloader is used', config)
        cfg.test_dataloader, cfg.test_evaluator = loader, evaluator
        cfg.test_cfg = cfg.get('test_cfg') or {}
        return
    raise ConfigError(
        f'{config} has no test set: it needs test_dataloader and test_evaluator (or '
        'val_dataloader and val_evaluator)'
    )


def _average_over_flips(runner: Runner) -> None:
    """Sets up test-time augmentation of the config, or else a horizontal flip."""
    pipeline = runner.cfg.get('tta_pipeline')
    for part in parts(runner.test_dataloader.dataset):
        part.pipeline = _flips(part) if pipeline is None else Compose(pipeline)
    wrapper = runner.cfg.get('tta_model') or dict(type='AverageClsScoreTTA')
    # Wraps the model, which keeps its own data preprocessor.
    runner.model = MODELS.build(dict(wrapper, module=runner.model))


def _flips(dataset: Dataset) -> Compose:
    """Creates a data set's pipeline that gives each image and its mirror image."""
    chain = list(getattr(getattr(dataset, 'pipeline', None), 'transforms', []))
    if any(isinstance(t, TestTimeAug) for t in chain):  # already gives several views
        return dataset.pipeline
    packing = [i for i, t in enumerate(chain) if isinstance(t, PackInputs)]
    if not packing:
        raise ConfigError(
            f'--tta mirrors images before PackInputs, which the test pipeline of '
            f'{type(dataset).__name__} has not; name a tta_pipeline in the config'
        )
    flips = [RandomFlip(prob=p) for p in (0.0, 1.0)]
    both = TestTimeAug([flips, [Compose(chain[packing[0] :])]])
    return Compose([*chain[: packing[0]], both])
