"""Traces the operations of a network by running it once.

The network runs in evaluation mode on random images. Every call into torch with a value
that depends on the images is looked up in one table, which the other files of this
package fill. A function in the table has the signature of torch's function. It adds the
operations of the packed format, and refuses arguments that these do not implement.
Modules, functions, methods and operators are therefore recorded in the same way, and
Python executes the control flow. Code that asks for the values of an image is refused.
Other runs, with other images and another number of them, must record the same
operations: that finds what hides from torch's calls, in TorchScript for example.

Binary layers are recorded as a whole. Parameters are recognised by identity, so weights
that are computed in each pass (parametrizations, ``weight_norm``, pruning) are refused.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod

import numpy as np
import torch
from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from mmpretrain.models.classifiers import BaseClassifier
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from ...errors import UnsupportedModelError, first_line
from . import activations, arithmetic, binary, pooling, shapes, weighted  # noqa: F401
from .calls import refuse
from .recorder import DoesNotRun, Recorder, Recording

# Numbers of images, and what their values are multiplied with.
_RUNS = ((2, 1), (3, -10))


def innermost(model: nn.Module) -> nn.Module:
    """Returns the network inside all wrappers that compute the same.

    :func:`mmirnet.engine.wrappers.unwrap` removes those of a training. This function
    also removes ``torch.compile`` and averages of weights.
    """
    averaged = (BaseTTAModel, BaseAveragedModel, AveragedModel)
    while True:
        if '_orig_mod' in model._modules:
            model = model._orig_mod
        elif is_model_wrapper(model) or isinstance(model, averaged):
            model = model.module
        else:
            return model


@contextmanager
def _by_itself() -> Iterator[None]:
    """Leaves out what the caller's code set around: it is no part of the network."""
    cast = torch.autocast('cpu', enabled=False)
    with torch.inference_mode(False), cast, torch.device('cpu'):
        yield


@_by_itself()
def trace(model: nn.Module, size: tuple[int, int]) -> Recording:
    """Traces a model in evaluation mode, on images of one size.

    Args:
        model (nn.Module): A classifier of MMPretrain, or any module from images to
            logits, wrapped or not.
        size (tuple[int, int]): Height and width of the images.

    Returns:
        Recording: The operations and their tensors.

    Raises:
        UnsupportedModelError: If the format does not support an operation; names its
            place in the model.
    """
    model = _prepared(model)
    failures = []
    for channels in _channels(model, size):
        try:
            several = [
                (batch, Recorder(model).record(batch, channels, size, factor))
                for batch, factor in _RUNS
            ]
        except DoesNotRun as error:
            failures.append(error)
            continue
        # Some networks take no single image: squeeze() drops its axis.
        with suppress(DoesNotRun, UnsupportedModelError):
            several.append((1, Recorder(model).record(1, channels, size)))
        (_, first), *others = several
        for batch, other in others:
            _compare(first, batch, other)
        return first
    raise UnsupportedModelError(f'cannot pack {failures[0]}') from failures[0].__cause__


def _compare(first: Recording, batch: int, other: Recording) -> None:
    """Refuses a model that computed something else in another run."""
    if first.graph != other.graph:
        refuse(
            'the model',
            f'it computes one thing for {_RUNS[0][0]} images and another for {batch}, '
            'for other pixels, or in another call',
        )
    for name, array in first.tensors.items():
        if not np.array_equal(array, other.tensors[name]):
            refuse(name, 'it changes from one call to the next')


def _prepared(model: nn.Module) -> nn.Module:
    """Returns an uncompiled copy in float32 on the CPU, in evaluation mode."""
    if not isinstance(model, nn.Module):
        refuse(type(model).__name__, 'it is no torch.nn.Module')
    model = innermost(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            refuse(
                path or 'the model',
                'it is compiled by torch.jit; pack the module it was made of',
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter):
            refuse(name, 'it has no shape before the first images went through')
        if tensor.is_meta:
            refuse(name, 'it has no values on the meta device; load a checkpoint')
    try:
        model = copy.deepcopy(model)
    except RuntimeError as error:  # torch copies no tensor that was computed
        for path, module in model.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, Tensor) and not value.is_leaf:
                    name = f'{path}.{key}'.lstrip('.')
                    refuse(name, 'it is computed anew in every pass; make it constant')
        refuse('the model', f'it cannot be copied: {first_line(error)}')
    if isinstance(model, BaseClassifier):
        # What MMPretrain evaluates is its class's: it never calls a replaced forward,
        # which may also still belong to the network that was copied.
        vars(model).pop('forward', None)
    model.cpu().float().eval()
    return model


def _channels(model: nn.Module, size: tuple[int, int]) -> list[int]:
    """Returns numbers of channels to try, those of the first layers first."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            found.append(module.in_channels)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.append(module.num_features)
        elif isinstance(module, nn.Linear):
            found.append(module.in_features // max(1, prod(size)))
    found = [channels for channels in found if 1 <= channels <= 64]
    return list(dict.fromkeys([*found[:4], 3, *range(1, 9)]))
