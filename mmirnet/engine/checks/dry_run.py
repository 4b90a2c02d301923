"""Sends two images through a network to check that it accepts them.

The run is not affected: random numbers, batch norms and the order of the data stay the
same.
"""

import contextlib
import copy
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torch.utils.data import DataLoader, IterableDataset

from ...datasets.seeding import DeterministicSampler, SeededIndex
from ...errors import ConfigError, DataError, MmirnetError
from ..wrappers import unwrap

#: Number of images to inspect; two of them go through the network.
_IMAGES = 4


@dataclass
class DryRun:
    """Result of a dry run.

    Attributes:
        problems (list[Exception]): One per problem.
        single (list[str]): Batch norms with one value per image and channel that
            compute statistics in training. They need two images.
        labels (set[str] | None): Which of ``gt_label`` and ``gt_score`` the images
            have. None if they are not packed like MMPretrain's.
        one_sign (list[str]): Binary layers whose inputs all have the same sign.
        metrics (set[str] | None): Names of the results, if known.
    """

    problems: list[Exception] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    labels: set[str] | None = None
    one_sign: list[str] = field(default_factory=list)
    metrics: set[str] | None = None


class _Unfit(Exception):
    """Stops a forward pass before a module that does not accept its input."""


def dry_run(
    key: str, loader: DataLoader, model: nn.Module, evaluator: Evaluator | None = None
) -> DryRun:
    """Sends two images of a data loader through a network.

    Errors of unknown origin are ignored here: the first training iteration raises them
    with their traceback.

    Args:
        key (str): Key of the data loader in the config.
        loader (DataLoader): The data loader. Its images are read as in training, but in
            another order.
        model (nn.Module): A model of MMEngine, wrapped or not.
        evaluator (Evaluator | None): Evaluator whose result names to collect.

    Returns:
        DryRun: The problems found.
    """
    found, averages = DryRun(), _averages(model)
    lazy = any(
        isinstance(p, nn.parameter.UninitializedTensorMixin)
        for p in [*model.parameters(), *model.buffers()]
    )
    if not isinstance(unwrap(model), BaseModel) or lazy or not len(loader.dataset):
        return found
    if isinstance(loader.dataset, IterableDataset):
        return found
    with _as_before(model):
        batch = _read(key, loader, found)
        if batch is None:
            return found
        found.labels = _labels(batch)
        if _of_views(batch) == averages:
            if not averages:
                _forward(key, batch, unwrap(model), found)
            if evaluator is not None and not found.problems:
                found.metrics = _metric_names(batch, model, evaluator)
        elif isinstance(unwrap(model), ImageClassifier):
            found.problems.append(ConfigError(_misplaced_views(key, averages)))
    return found


def _averages(model: nn.Module) -> bool:
    """Whether a model averages its predictions for several views of an image."""
    while is_model_wrapper(model) and not isinstance(model, BaseTTAModel):
        model = model.module
    return isinstance(model, BaseTTAModel)


def _misplaced_views(key: str, averages: bool) -> str:
    if averages:
        return (
            'tta_pipeline gives one view of an image: it needs '
            "dict(type='TestTimeAug', transforms=[[...], ...]) with PackInputs inside"
        )
    return (
        f'the pipeline of {key}.dataset gives several views of an image, which the '
        'model does not take: TestTimeAug belongs into tta_pipeline, and tools/test.py '
        '--tta averages them'
    )


def _labels(batch: object) -> set[str] | None:
    """Returns which labels the first sample of a batch has."""
    packed = batch.get('data_samples') if isinstance(batch, dict) else None
    while isinstance(packed, (list, tuple)) and packed:  # views, images
        packed = packed[0]
    if not isinstance(packed, DataSample):
        return None
    return {'gt_label', 'gt_score'} & set(packed.keys())


@contextlib.contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Restores random numbers, modes and buffers."""
    states = random.getstate(), np.random.get_state()
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    devices = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _read(key: str, loader: DataLoader, found: DryRun) -> dict | None:
    """Reads a batch of two images; None if they cannot be read."""
    n = len(loader.dataset)
    indices = sorted({i * (n - 1) // (_IMAGES - 1) for i in range(_IMAGES)})
    if isinstance(loader.sampler, DeterministicSampler):
        indices = [SeededIndex(i, (0, 0, 0, i)) for i in indices]
    collate = loader.collate_fn
    # In a worker if training uses workers: some data sets open files only there.
    reader = DataLoader(
        loader.dataset,
        batch_sampler=[indices],
        num_workers=min(loader.num_workers, 1),
        collate_fn=_Collate(collate),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
    try:
        shapes, batch = next(iter(reader))
    except (MmirnetError, OSError) as e:
        found.problems.append(e)
        return None
    except Exception:
        return None
    if batch is None:
        sizes = ' and '.join('x'.join(map(str, shape)) for shape in shapes[:2])
        found.problems.append(
            DataError(
                f'{key}: images of {sizes} do not make one batch; add '
                "dict(type='Resize', scale=(WIDTH, HEIGHT)) to the pipeline"
            )
        )
    return batch


def _of_views(batch: object) -> bool:
    """Whether each image has several views, as in test-time augmentation."""
    images = batch.get('inputs') if isinstance(batch, dict) else None
    views = images[0] if isinstance(images, (list, tuple)) else None
    return isinstance(views, (list, tuple)) or (
        isinstance(views, Tensor) and views.dim() > 3
    )


class _Collate:
    """Collates two of several samples after comparing the shapes of all."""

    def __init__(self, collate) -> None:
        self.collate = collate

    def __call__(self, samples):
        """Returns differing shapes and the batch, or None if it cannot be stacked."""
        shapes = []
        if isinstance(samples, list) and isinstance(samples[0], dict):
            images = [sample.get('inputs') for sample in samples]
            shapes = [tuple(i.shape) for i in images if isinstance(i, Tensor)]
        shapes = list(dict.fromkeys(shapes))
        function = getattr(self.collate, 'func', self.collate)  # functools.partial
        if len(shapes) > 1 and getattr(function, '__name__', '') == 'default_collate':
            return shapes, None
        two = samples[:2] if isinstance(samples, list) else samples
        return shapes, self.collate(two)


def _forward(key: str, batch: dict, model: nn.Module, found: DryRun) -> None:
    """Sends a batch through a model and its teacher, and looks at their layers."""
    names = {module: name for name, module in model.named_modules()}
    teacher = getattr(getattr(model, 'teacher', None), 'network', None)
    if teacher is not None:
        names |= {m: f'teacher.{name}' for name, m in teacher.named_modules()}
    model.train()
    normalising = {m for m in model.modules() if _uses_batch_statistics(m)}
    model.eval()
    images: list[Tensor] = []

    def look(module: nn.Module, args: tuple) -> None:
        if not args or not isinstance(args[0], Tensor):
            return
        x, name = args[0], names[module]
        if not images:
            images.append(x)
        if fault := _fault(module, x):
            raise _Unfit(_misfit(key, name, fault, x, images[0]))
        if getattr(module, 'binarize_input', False) and _of_one_sign(x):
            found.one_sign.append(name)
        if module in normalising and x[0].numel() == x.shape[1]:
            found.single.append(name)

    handles = [module.register_forward_pre_hook(look) for module in _looked_at(names)]
    try:
        with torch.compiler.set_stance('force_eager'):
            data = model.data_preprocessor(batch, False)
            if (given := _channels(batch)) != (made := _channels(data)):
                found.problems.append(UserWarning(_repeats(key, given, made)))
            model._run_forward(data, mode='tensor')
            if teacher is not None:
                teacher(data['inputs'], mode='tensor')
    except _Unfit as e:
        found.problems.append(DataError(str(e)))
    except Exception:  # the first iteration raises it with its traceback
        pass
    finally:
        for handle in handles:
            handle.remove()


def _misfit(key: str, name: str, fault: str, x: Tensor, image: Tensor) -> str:
    """Describes a layer that does not accept its input."""
    if name.startswith('head.') and 'channels' in fault:
        fault += f' (model.head.in_channels has to be {x.shape[1]})'
    shape = 'x'.join(map(str, image.shape[1:]))
    return f'{key}: model.{name} {fault}, from images of {shape}'


def _channels(batch: dict) -> int:
    inputs = batch['inputs'][0]  # the first image of a tensor or a list
    return inputs.shape[0]


def _repeats(key: str, given: int, made: int) -> str:
    return (
        f'{key}: images of {given} channel{"s" * (given > 1)} become {made}, as mean '
        f'and std of the data preprocessor have {made} numbers; give them {given}, or '
        'another color_type to LoadImageFromFile'
    )


def _of_one_sign(x: Tensor) -> bool:
    """Whether the signs of a tensor are all equal."""
    return bool((x >= 0).all() or (x < 0).all())


def _metric_names(
    batch: dict, model: nn.Module, evaluator: Evaluator
) -> set[str] | None:
    """Returns the result names of an evaluator, computed from two images."""
    names = set()
    try:
        samples = [sample.to_dict() for sample in model.val_step(batch)]
        for metric in copy.deepcopy(evaluator.metrics):
            if isinstance(metric, DumpResults):  # it would write a file
                continue
            metric.process(batch, samples)
            results = metric.compute_metrics(metric.results)
            prefix = f'{metric.prefix}/' if metric.prefix else ''
            names |= {f'{prefix}{name}' for name in results}
    except Exception:
        return None
    return names


def _looked_at(modules: Iterable[nn.Module]) -> list[nn.Module]:
    kinds = (_ConvNd, nn.Linear, _BatchNorm, _MaxPoolNd, _AvgPoolNd)
    return [module for module in modules if isinstance(module, kinds)]


def _uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a module computes batch statistics within one process in training."""
    several = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
    return isinstance(module, _BatchNorm) and module.training and not several


def _fault(module: nn.Module, x: Tensor) -> str | None:
    """Explains why a module does not accept an input; None if it does."""
    wanted = got = None
    if isinstance(module, nn.Linear):
        wanted, got = module.in_features, x.shape[-1]
    elif isinstance(module, _BatchNorm):
        wanted, got = module.num_features, x.shape[1]
    elif isinstance(module, _ConvNd):
        batch = x.dim() == module.weight.dim()
        wanted, got = module.in_channels, x.shape[1 if batch else 0]
    if wanted != got:
        return f'takes {wanted} channels, but gets {got}'
    if isinstance(module, (_ConvNd, _MaxPoolNd, _AvgPoolNd)):
        return _too_small(module, x)
    return None


def _too_small(module: nn.Module, x: Tensor) -> str | None:
    if getattr(module, 'transposed', False) or getattr(module, 'ceil_mode', False):
        return None
    sizes = x.shape[-2:] if not isinstance(module, (nn.Conv1d, nn.Conv3d)) else ()
    padding = module.padding if not isinstance(module.padding, str) else sum(sizes)
    for i, size in enumerate(sizes):
        kernel, pad = (_pair(v)[i] for v in (module.kernel_size, padding))
        span = (kernel - 1) * _pair(getattr(module, 'dilation', 1))[i] + 1
        if size + 2 * pad < span:
            return f'needs {span} pixels, but gets {size}'
    return None


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
