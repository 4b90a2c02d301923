"""Compilation, precision of float32, and the name of the device."""

import platform
from pathlib import Path

import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import ConfigError
from .amp import Bf16OptimWrapper


def compile_model(model: nn.Module, **options) -> None:
    """Compiles the backbone of a classifier for training and evaluation.

    Most of the time is spent in the backbone, where compilation reduces five passes
    over memory between two convolutions to two. The rest of a training step is small,
    and its Python code would only break the graph.

    There is one graph for training and one for evaluation. Smaller last batches and new
    values of EDE's t and k, which are read from a buffer, use the same graphs. Weights,
    their names and copies of the model (EMA) do not change.

    Args:
        model (nn.Module): Any model with a ``backbone``, without a wrapper.
        **options: Arguments of ``torch.compile``. With ``dynamic=False`` there is one
            graph per batch size.

    Raises:
        ValueError: If the model has no backbone.

    Example:
        >>> from mmpretrain.registry import MODELS
        >>> model = MODELS.build(dict(
        ...     type='mmpretrain.ImageClassifier',
        ...     backbone=dict(type='IRResNet_CIFAR', depth=20)))
        >>> compile_model(model)
    """
    if not hasattr(model, 'backbone'):
        raise ConfigError(
            f'compile needs a model with a backbone, got {type(model).__name__}'
        )
    if options.get('dynamic') is None:
        model.register_forward_pre_hook(_take_any_batch_size, with_kwargs=True)
    model.backbone.compile(**options)


def _take_any_batch_size(module: nn.Module, args: tuple, kwargs: dict) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            torch._dynamo.maybe_mark_dynamic(value, 0)


def allow_tf32(allow: bool) -> None:
    """Sets whether GPUs may round float32 operands to 10 bits of mantissa.

    This applies to convolutions and matrix products. Signs and powers of two stay
    exact; full-precision layers and gradients do not. By default torch allows it in
    convolutions but not in matrix products.

    Args:
        allow (bool): Whether both may round.
    """
    torch.backends.cudnn.allow_tf32 = allow
    torch.backends.cuda.matmul.allow_tf32 = allow


def precision(runner: Runner) -> str:
    """Returns the type in which a run computes convolutions and matrix products.

    Args:
        runner (Runner): The runner, after it has built its optimizer.

    Returns:
        str: ``'bfloat16'``, ``'float16'``, ``'tf32'`` or ``'float32'``.
    """
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, Bf16OptimWrapper):
        return 'bfloat16'
    if isinstance(wrapper, AmpOptimWrapper):
        return str(wrapper.cast_dtype or torch.float16).removeprefix('torch.')
    on_gpu = next(runner.model.parameters()).is_cuda
    rounded = torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    return 'tf32' if on_gpu and rounded else 'float32'


def device_name(device: torch.device) -> str:
    """Returns the name of a device, for reports of measurements.

    Args:
        device (torch.device): The device.

    Returns:
        str: Model of the GPU or CPU, or the CPU's architecture if the model is unknown.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    if (cpuinfo := Path('/proc/cpuinfo')).exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
