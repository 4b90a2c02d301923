"""What makes training fast or slow: compilation, float32's precision, the machine."""

import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ConfigError


def compile_model(model: nn.Module, **options) -> None:
    """Compile a classifier's backbone, for training and for evaluation.

    The backbone is where the time goes: between two convolutions a compiler makes
    two passes over memory of five. The rest of a training step is a pooled vector a
    sample and Python that builds lists and logs, which would only break the graph.

    There is one graph for training and one for evaluation. A smaller last batch
    fits into the same graph, and so do new values of EDE's t and k, which are read
    from a buffer. Weights, names and copies of the model (EMA's) stay as they are.

    Args:
        model (nn.Module): Any model with a ``backbone``, without a wrapper.
        **options: For ``torch.compile``; ``dynamic=False`` makes a graph for each
            batch size.

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
    """Let GPUs round float32 operands of convolutions and products to 10 bits.

    Signs and powers of two stay exact; full-precision layers and gradients do not.
    torch itself allows it in convolutions and not in products.

    Args:
        allow (bool): For both.
    """
    torch.backends.cudnn.allow_tf32 = allow
    torch.backends.cuda.matmul.allow_tf32 = allow


def device_name(device: torch.device) -> str:
    """What a GPU or this machine's CPU is called, for whoever reads a time.

    Args:
        device (torch.device): The device.

    Returns:
        str: Its model, or the CPU's architecture where the system does not tell.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    if (cpuinfo := Path('/proc/cpuinfo')).exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
