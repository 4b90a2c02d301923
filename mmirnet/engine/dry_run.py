"""Whether a network takes the images it is going to get: two of them, once through.

Nothing of the run changes: random numbers, batch norms and the order of the data
are as before.
"""

import contextlib
import copy
import random
from collections.abc import Iterator
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

from ..datasets.seeding import DeterministicSampler, SeededIndex
from ..errors import ConfigError, DataError, MmirnetError
from .wrappers import unwrap

#: How many images are looked at; two of them go through the network.
_IMAGES = 4


@dataclass
class DryRun:
    """What came of it.

    Attributes:
        problems (list[Exception]): One for each thing that does not fit.
        single (list[str]): Batch norms that see one value an image and channel, and
            compute statistics in training: they need two images.
        labels (set[str] | None): Which of ``gt_label`` and ``gt_score`` the images
            have; None if they are not packed as MMPretrain does it.
        one_sign (list[str]): Binary layers whose inputs have one sign, all of them.
        metrics (set[str] | None): Names of the results; None if they are not known.
    """

    problems: list[Exception] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    labels: set[str] | None = None
    one_sign: list[str] = field(default_factory=list)
    metrics: set[str] | None = None


class _Unfit(Exception):
    """Ends a forward pass whose next module does not take its input."""


def dry_run(
    key: str, loader: DataLoader, model: nn.Module, evaluator: Evaluator | None = None
) -> DryRun:
    """Send two images of a data loader through a network.

    Errors of which this module does not know whose they are pass: training meets them
    in its first iteration, and shows where.

    Args:
        key (str): What the data loader is called in the config.
        loader (DataLoader): Its images are read as it would read them, but for the
            order.
        model (nn.Module): MMEngine's kind of model, in whatever wrappers.
        evaluator (Evaluator | None): Asked for the names of its results, if given.

    Returns:
        DryRun: What does not fit.
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
    """Whether a model averages what it makes of several views of an image."""
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
    """What the first sample of a batch says of its class."""
    packed = batch.get('data_samples') if isinstance(batch, dict) else None
    while isinstance(packed, (list, tuple)) and packed:  # of views, of images
        packed = packed[0]
    if not isinstance(packed, DataSample):
        return None
    return {'gt_label', 'gt_score'} & set(packed.keys())


@contextlib.contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Gives back random numbers, modes and buffers as they were."""
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
    """A batch of two; None if it cannot be read."""
    n = len(loader.dataset)
    indices = sorted({i * (n - 1) // (_IMAGES - 1) for i in range(_IMAGES)})
    if isinstance(loader.sampler, DeterministicSampler):
        indices = [SeededIndex(i, (0, 0, 0, i)) for i in indices]
    collate = loader.collate_fn
    # In a worker, if training has them: a data set may open its files there alone.
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
    """Whether each image is several: test-time augmentation takes them apart."""
    images = batch.get('inputs') if isinstance(batch, dict) else None
    views = images[0] if isinstance(images, (list, tuple)) else None
    return isinstance(views, (list, tuple)) or (
        isinstance(views, Tensor) and views.dim() > 3
    )


class _Collate:
    """Collates two of several samples, after a look at all their shapes."""

    def __init__(self, collate) -> None:
        self.collate = collate

    def __call__(self, samples):
        """Shapes that differ, and the batch; None if they cannot be stacked."""
        shapes = []
        if isinstance(samples, list) and isinstance(samples[0], dict):
            images = [sample.get('inputs') for sample in samples]
            shapes = [tuple(i.shape) for i in images if isinstance(i, Tensor)]
        shapes = list(dict.fromkeys(shapes))
        function = getattr(self.collate, 'func', self.collate)  # of a partial
        if len(shapes) > 1 and getattr(function, '__name__', '') == 'default_collate':
            return shapes, None
        two = samples[:2] if isinstance(samples, list) else samples
        return shapes, self.collate(two)


def _forward(key: str, batch: dict, model: nn.Module, found: DryRun) -> None:
    model.train()
    counting = {module for module in model.modules() if _counts(module)}
    model.eval()
    names = {module: name for name, module in model.named_modules()}
    images: list[Tensor] = []

    def look(module: nn.Module, args: tuple) -> None:
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is None:
            return
        if not images:
            images.append(x)
        if fault := _fault(module, x):
            shape = 'x'.join(map(str, images[0].shape[1:]))
            name = f'model.{names[module]}'
            if names[module].startswith('head.') and 'channels' in fault:
                fault += f' (model.head.in_channels has to be {x.shape[1]})'
            raise _Unfit(f'{key}: {name} {fault}, from images of {shape}')
        if getattr(module, 'binarize_input', False) and _of_one_sign(x):
            found.one_sign.append(names[module])
        if module in counting and x[0].numel() == x.shape[1]:
            found.single.append(names[module])

    handles = [module.register_forward_pre_hook(look) for module in _looked_at(model)]
    try:
        with torch.compiler.set_stance('force_eager'):
            data = model.data_preprocessor(batch, False)
            if (given := _channels(batch)) != (made := _channels(data)):
                found.problems.append(UserWarning(_repeats(key, given, made)))
            model._run_forward(data, mode='tensor')
    except _Unfit as e:
        found.problems.append(DataError(str(e)))
    except Exception:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _channels(batch: dict) -> int:
    inputs = batch['inputs'][0]  # the first image, of a tensor or a list
    return inputs.shape[0]


def _repeats(key: str, given: int, made: int) -> str:
    return (
        f'{key}: images of {given} channel{"s" * (given > 1)} become {made}, as mean '
        f'and std of the data preprocessor have {made} numbers; give them {given}, or '
        'another color_type to LoadImageFromFile'
    )


def _of_one_sign(x: Tensor) -> bool:
    """Whether the signs of a tensor are all +1, or all -1."""
    return bool((x >= 0).all() or (x < 0).all())


def _metric_names(
    batch: dict, model: nn.Module, evaluator: Evaluator
) -> set[str] | None:
    """What an evaluator calls its results, asked with two images."""
    names = set()
    try:
        samples = [sample.to_dict() for sample in model.val_step(batch)]
        for metric in copy.deepcopy(evaluator.metrics):
            if isinstance(metric, DumpResults):  # which writes them
                continue
            metric.process(batch, samples)
            results = metric.compute_metrics(metric.results)
            prefix = f'{metric.prefix}/' if metric.prefix else ''
            names |= {f'{prefix}{name}' for name in results}
    except Exception:
        return None
    return names


def _looked_at(model: nn.Module) -> list[nn.Module]:
    kinds = (_ConvNd, nn.Linear, _BatchNorm, _MaxPoolNd, _AvgPoolNd)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _counts(module: nn.Module) -> bool:
    """Whether a module computes statistics of one process's batch in training."""
    several = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
    return isinstance(module, _BatchNorm) and module.training and not several


def _fault(module: nn.Module, x: Tensor) -> str | None:
    """Why a module does not take an input; None if it does."""
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
