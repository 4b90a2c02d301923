"""What a network computes, recorded as it computes it.

The network runs, in evaluation mode and on random images, and every call into torch
that touches a value made of them is looked up in one table. A function of the table
has the signature of torch's own: it binds all arguments, says which operation of the
packed format that is, and refuses what it does not implement. So modules, functions,
methods and operators are one thing, and control flow is what Python does, unless it
asks for the values of an image: that is refused. A second run, with another number of
images, has to give the same operations.

Binary layers are recorded as a whole. Parameters are known by identity: weights that
are computed anew (parametrizations, ``weight_norm``, pruning) are refused.
"""

import copy
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from mmpretrain.models.classifiers import BaseClassifier
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..binary import BinaryConv2d, BinaryLinear
from ..errors import UnsupportedModelError
from ..models.activations import Maxout, RPReLU
from ..models.blocks import PadShortcut
from .bits import pack_bits
from .limits import MAX_EXPONENT
from .ops import shape_of

_TORCH = str(Path(torch.__file__).parent) + os.sep
_BATCHES = (2, 3)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside of wrappers: DDP, averaged, compiled, for augmented tests."""
    averaged = (BaseTTAModel, BaseAveragedModel, AveragedModel)
    while True:
        if '_orig_mod' in model._modules:
            model = model._orig_mod
        elif is_model_wrapper(model) or isinstance(model, averaged):
            model = model.module
        else:
            return model


def _refuse(place: str, why: str) -> NoReturn:
    raise UnsupportedModelError(f'cannot pack {place}: {why}')


class _DoesNotRun(Exception):
    """The network itself fails on the images it was given."""


@dataclass
class Recording:
    """What a network computes.

    Attributes:
        graph: Operations, as in a packed file; the last one gives the logits.
        tensors: Arrays by name: float32, or uint64 signs and int8 exponents.
        channels: Channels of an image.
    """

    graph: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    channels: int = 3


def trace(model: nn.Module, size: tuple[int, int]) -> Recording:
    """The operations of a model in evaluation mode, on images of one size.

    Args:
        model: An MMPretrain classifier or any module from images to logits, wrapped
            or not.
        size: Height and width of the images.

    Raises:
        UnsupportedModelError: For what the format does not have, with its place in
            the model.
    """
    model = _prepared(model)
    failures = []
    for channels in _channels(model, size):
        try:
            first, second = (
                _Recorder(model).record(batch, channels, size) for batch in _BATCHES
            )
        except _DoesNotRun as error:
            failures.append(error)
            continue
        if first.graph != second.graph:
            _refuse(
                'the model',
                f'it computes one thing for {_BATCHES[0]} images and another for '
                f'{_BATCHES[1]}, or for the first call and the second',
            )
        for name, array in first.tensors.items():
            if not np.array_equal(array, second.tensors[name]):
                _refuse(name, 'it changes from one call to the next')
        return first
    raise UnsupportedModelError(f'cannot pack {failures[0]}') from failures[0].__cause__


def _prepared(model: nn.Module) -> nn.Module:
    """A copy in float32 on the CPU, in evaluation mode, not compiled."""
    if not isinstance(model, nn.Module):
        _refuse(type(model).__name__, 'it is no torch.nn.Module')
    model = unwrap(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            _refuse(
                path or 'the model',
                'it is compiled by torch.jit; pack the module it was made of',
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter):
            _refuse(name, 'it has no shape before the first images went through')
        if tensor.is_meta:
            _refuse(name, 'it has no values on the meta device; load a checkpoint')
    try:
        model = copy.deepcopy(model)
    except RuntimeError as error:  # torch copies no tensor that was computed
        for path, module in model.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, Tensor) and not value.is_leaf:
                    name = f'{path}.{key}'.lstrip('.')
                    _refuse(name, 'it is computed anew in every pass; make it constant')
        _refuse('the model', f'it cannot be copied: {_line(error)}')
    if isinstance(model, BaseClassifier):
        # What MMPretrain evaluates is its class's: it never calls a replaced forward,
        # which may also still belong to the network that was copied.
        vars(model).pop('forward', None)
    model.cpu().float().eval()
    return model


def _channels(model: nn.Module, size: tuple[int, int]) -> list[int]:
    """Channels that an image may have: as the first layers read, most likely first."""
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


def _path(name: str) -> str:
    """A name in the network that was not compiled."""
    return '.'.join(part for part in name.split('.') if part != '_orig_mod')


def _line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0] or type(error).__name__


@dataclass
class _Call:
    """One call into torch, as it is recorded."""

    recorder: '_Recorder'
    function: Callable
    args: tuple
    kwargs: dict
    done: bool = False
    result: Any = None

    def run(self) -> Any:
        """What torch gives, computed once."""
        if not self.done:
            self.result = self.recorder.run(self.function, *self.args, **self.kwargs)
            self.done = True
        return self.result

    def refuse(self, why: str) -> NoReturn:
        _refuse(self.recorder.place(), f'{_name(self.function)}: {why}')


def _name(function: Callable) -> str:
    name = getattr(function, '__name__', str(function))
    # The getter of an attribute, such as x.data.
    return function.__self__.__name__ if name == '__get__' else name


class _Recorder(TorchFunctionMode):
    """Runs a model once and keeps its operations."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.recording = Recording()
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.values = WeakIdKeyDictionary()  # tensor -> (name, version)
        self.stack: list[tuple[str, nn.Module]] = []
        self.recording_on = True
        self.taken_over: list[nn.Module] = []
        names = [*model.named_parameters(remove_duplicate=False)]
        names += model.named_buffers(remove_duplicate=False)
        self.parameters = {id(tensor): _path(name) for name, tensor in names}

    # ---- running

    def record(self, batch: int, channels: int, size: tuple[int, int]) -> Recording:
        """Runs the model on random images, and gives what it computed."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, channels, *size, generator=generator)
        self.batch = batch
        self.recording.channels = channels
        self.shapes['input'] = (channels, *size)
        self.values[images] = 'input', images._version
        handles = self._watch()
        try:
            with (
                torch.no_grad(),
                torch.random.fork_rng(devices=[]),
                _uncompiled(),
                self,
            ):
                output = self.model(images)
            self._finish(output)
        except (UnsupportedModelError, _DoesNotRun):
            raise
        except Exception as error:
            raise _DoesNotRun(
                f'{self.place(error)}: it does not run on images of '
                f'{tuple(images.shape)}: {_line(error)}'
            ) from error
        finally:
            for handle in handles:
                handle.remove()
            for module in self.taken_over:
                del module.forward
        return self.recording

    def _watch(self) -> list:
        """Follows where in the model a call comes from; takes whole layers over."""
        handles = []

        def enter(path: str, module: nn.Module, args: tuple) -> None:
            self.stack.append((path, module))

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            self.stack.pop()

        for path, module in self.model.named_modules():
            path = _path(path)
            handles.append(
                module.register_forward_pre_hook(partial(enter, path), prepend=True)
            )
            handles.append(module.register_forward_hook(leave))
            for kind, record in _LAYERS.items():
                if isinstance(module, kind) and 'forward' not in vars(module):
                    module.forward = partial(_layer, self, module, kind, record)
                    self.taken_over.append(module)
        return handles

    def run(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """A function of torch, without a look at what it calls."""
        before, self.recording_on = self.recording_on, False
        try:
            return function(*args, **kwargs)
        finally:
            self.recording_on = before

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.recording_on or not self._touches((args, kwargs)):
            return function(*args, **kwargs)
        if function in _FACTS:
            return function(*args, **kwargs)
        call = _Call(self, function, args, kwargs)
        if function in _PEEKS:
            _refuse(
                self.place(),
                f'{_name(function)} asks for the values of an image, and a packed '
                'network goes one way for all',
            )
        if function not in _FUNCTIONS:
            call.refuse('the packed format has no such operation')
        record = _FUNCTIONS[function]
        try:
            bound = inspect.signature(record).bind(call, *args, **kwargs)
        except TypeError as error:
            call.refuse(_line(error))
        name = record(*bound.args, **bound.kwargs)
        result = call.run()
        self.give(result, name, call)
        return result

    def _touches(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value in self.values
        if isinstance(value, dict):
            value = tuple(value.values())
        return isinstance(value, (tuple, list)) and any(map(self._touches, value))

    # ---- values and operations

    def place(self, error: BaseException | None = None) -> str:
        """Where in the model we are: its module, and the line of its code."""
        path, module = self.stack[-1] if self.stack else ('', self.model)
        what = [type(module).__name__]
        own = type(module).__module__.startswith('torch.nn.')
        if not own or isinstance(module, (nn.Sequential, nn.ModuleList)):
            what += _where(error)
        return f'{path or "the model"} ({", ".join(what)})'

    def name(self, value: Any, call: _Call) -> str:
        """The name of a value that the graph has."""
        if not isinstance(value, Tensor) or value not in self.values:
            call.refuse('an operand is made of no image')
        name, version = self.values[value]
        if version != value._version:
            call.refuse('an operand was changed in place under another name')
        return name

    def give(self, result: Any, name: str, call: _Call) -> None:
        """Notes that a tensor is a value of the graph."""
        if not isinstance(result, Tensor) or result.dtype != torch.float32:
            call.refuse(f'gives {getattr(result, "dtype", type(result))}, not float32')
        shape = self.shapes[name]
        if tuple(result.shape) not in (
            (self.batch, *shape),
            (self.batch, prod(shape)),
        ):
            call.refuse(
                f'gives a tensor of shape (N, {", ".join(map(str, result.shape[1:]))})'
                f' where (N, {", ".join(map(str, shape))}) would fit'
            )
        self.values[result] = name, result._version

    def emit(
        self,
        kind: str,
        sources: list[str],
        attributes: dict | None = None,
        arrays: dict | None = None,
        layer: str | None = None,
        refuse: Callable | None = None,
    ) -> str:
        """Adds an operation and gives the name of its output."""
        refuse = refuse or partial(_refuse, self.place())
        arrays = arrays or {}
        output = layer if layer and layer not in self.shapes else None
        number = len(self.recording.graph)
        while output is None or output in self.shapes:
            output, number = f'{kind}{number}', number + 1
        operation = dict(op=kind, src=sources, dst=output) | (attributes or {})
        tensors = {f'{output}.{role}': array for role, array in arrays.items()}
        dtypes = {name: _DTYPES[array.dtype.char] for name, array in tensors.items()}
        try:
            shape = shape_of(operation, self.shapes, tensors, dtypes)
        except ValueError as error:
            refuse(str(error))
        self.recording.graph.append(operation)
        self.recording.tensors |= tensors
        self.shapes[output] = shape
        return output

    def array(self, tensor: Any, role: str, call: _Call) -> np.ndarray:
        """The numbers of a parameter."""
        if not isinstance(tensor, Tensor) or id(tensor) not in self.parameters:
            call.refuse(
                f'its {role} is no parameter of the model: computed anew (as by '
                'weight_norm, pruning, a parametrization), or that of another network'
            )
        array = tensor.detach().cpu().float().contiguous().numpy().copy()
        if not np.isfinite(array).all():
            _refuse(self.parameters[id(tensor)], 'it holds NaN or infinity')
        return array

    def layer(self, **parameters: Tensor | None) -> str | None:
        """The path of the module that has these parameters under these names."""
        used = {role: p for role, p in parameters.items() if p is not None}
        path, module = self.stack[-1] if self.stack else ('', self.model)
        if all(getattr(module, role, None) is p for role, p in used.items()):
            return path or None
        paths = set()
        for role, parameter in used.items():
            path, _, name = self.parameters[id(parameter)].rpartition('.')
            paths.add(path if name == role else None)
        return paths.pop() if len(paths) == 1 else None

    def vector(self, name: str) -> str:
        """A value as one channel for each of its features."""
        if self.shapes[name][1:] == (1, 1):
            return name
        return self.emit('vector', [name])

    def _finish(self, output: Any) -> None:
        """Takes the logits, and drops what they do not depend on."""
        if hasattr(output, 'items'):
            output = list(output.values())
        if isinstance(output, (tuple, list)):
            if len(output) != 1:
                _refuse(
                    'the model',
                    f'it gives {len(output)} outputs, and a packed network gives one',
                )
            output = output[0]
        if not isinstance(output, Tensor):
            _refuse('the model', f'its output is {type(output).__name__}, no tensor')
        if output not in self.values or self.values[output][1] != output._version:
            _refuse('the model', 'its output is not what its layers gave')
        name = self.values[output][0]
        if output.dim() == 4 and self.shapes[name][1:] != (1, 1):
            channels, height, width = self.shapes[name]
            _refuse(
                'the model',
                f'it gives maps of {channels}x{height}x{width}, no vector of logits; '
                'pool and flatten them, and add a linear layer',
            )
        if name == 'input':
            _refuse('the model', 'its output is the image itself')
        logits = self.vector(name)
        if output.dim() == 4:
            logits = self.emit('flatten', [logits])
        recording, needed = self.recording, {logits}
        for operation in reversed(recording.graph):
            if operation['dst'] in needed:
                needed.update(operation['src'])
        recording.graph = [op for op in recording.graph if op['dst'] in needed]
        recording.tensors = {
            name: array
            for name, array in recording.tensors.items()
            if name.rpartition('.')[0] in needed
        }


def _uncompiled() -> AbstractContextManager:
    """Compiled functions run as they were written."""
    if 'torch._dynamo' not in sys.modules:  # which takes seconds to import
        return nullcontext()
    return torch.compiler.set_stance('force_eager')


_DTYPES = {'f': 'F32', 'b': 'I8', 'L': 'U64', 'Q': 'U64'}


def _where(error: BaseException | None) -> list[str]:
    """File and line of the model's code: the innermost that is not torch's or ours."""
    if error is not None and error.__traceback__ is not None:
        trace = error.__traceback__
        frames = []
        while trace:
            frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
    else:
        frame, frames = sys._getframe(1), []
        while frame:
            frames.insert(0, (frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
    # What lies outside of the run of the model is the caller's.
    ours = [i for i, (file, _) in enumerate(frames) if file == __file__]
    inside = frames[ours[0] :] if ours else frames
    for file, line in reversed(inside):
        if file != __file__ and not file.startswith((_TORCH, '<')):
            return [f'{os.path.basename(file)}:{line}']
    return []


# --------------------------------------------------------------------------
# Whole layers: (call, module, input) -> the name of the output.


def _layer(
    recorder: _Recorder,
    module: nn.Module,
    kind: type,
    record: Callable,
    *args,
    **kwargs,
):
    call = _Call(recorder, type(module), (module, *args), kwargs)
    forward = type(module).forward
    if not recorder._touches((args, kwargs)):
        return recorder.run(forward, module, *args, **kwargs)
    given = type(module)
    if not _computes_as(given, kind) or hasattr(module, 'parametrizations'):
        base = next(c for c in given.__mro__[1:] if _computes_as(c, kind))
        _refuse(
            recorder.place(),
            f'a subclass of {base.__name__}, or a parametrized one, may compute '
            'something else; only the class itself is packed',
        )
    call.function = forward
    bound = inspect.signature(forward).bind(module, *args, **kwargs)

    def take_over() -> Tensor:
        result = call.run()
        name = record(call, module, bound.arguments['x'])
        recorder.give(result, name, call)
        return result

    return recorder.run(take_over)


def _computes_as(given: type, kind: type) -> bool:
    """Whether a class computes what `kind` computes: a recipe is data."""
    if kind not in (BinaryConv2d, BinaryLinear):
        return given is kind
    names = 'forward', '_operands', 'quantized', 'input_threshold', 'input_affine'
    return all(getattr(given, name) is getattr(kind, name) for name in names)


def _scale(scale: Tensor | None, signs: Tensor) -> dict[str, np.ndarray]:
    """Scales as exponents, where all of them are powers of two, or as they are."""
    scale = torch.ones(len(signs)) if scale is None else scale.float()
    exponent = torch.log2(scale)
    whole = exponent.isfinite() & (exponent == exponent.round())
    if not (whole & (exponent.abs() <= MAX_EXPONENT)).all():
        return dict(scale=scale.numpy())
    return dict(exponent=exponent.to(torch.int8).numpy())


def _binary(call: _Call, module: BinaryConv2d | BinaryLinear) -> dict[str, np.ndarray]:
    """The tensors of a binary layer, signs in the order of a packed file."""
    recorder = call.recorder
    if not module.binarize_weight:
        _refuse(
            recorder.place(),
            'its weights are real, with binarize_weight=False, and a packed network '
            'has no such layer of binary inputs; pack the network of the second step',
        )
    for name, parameter in module.named_parameters(recurse=False):
        recorder.array(parameter, name, call)
    recorder.array(module.weight, 'weight', call)
    bits, scale, offset = module.quantized()
    arrays = _scale(scale, bits)
    bits = (bits.permute(0, 2, 3, 1) if bits.dim() == 4 else bits).flatten(1)
    arrays['signs'] = pack_bits(bits.numpy())
    if offset is not None:
        arrays.pop('exponent', None)
        arrays |= dict(scale=scale.float().numpy(), offset=offset.float().numpy())
    if module.binarize_input:
        arrays |= _input(module)
    if module.bias is not None:
        arrays['bias'] = recorder.array(module.bias, 'bias', call)
    return arrays


def _input(module: BinaryConv2d | BinaryLinear) -> dict[str, np.ndarray]:
    """Where the signs of an input begin, and what real numbers they stand for."""
    affine = module.input_affine()
    if affine is None:
        threshold = module.input_threshold()
        found = dict(threshold=threshold)
    else:
        alpha, beta = affine
        threshold = beta
        if alpha < 0:
            # -sign(x - beta) is +1 up to beta. The sign that is +1 above beta is its
            # negative, and alpha and beta change theirs.
            alpha, threshold, beta = -alpha, torch.nextafter(beta, beta + inf), -beta
        channels = module.weight.shape[1] * getattr(module, 'groups', 1)
        threshold = threshold.expand(channels)
        found = dict(threshold=threshold, affine_input=torch.stack([alpha, beta]))
    return {
        role: tensor.float().contiguous().numpy()
        for role, tensor in found.items()
        if tensor is not None
    }


def _binary_conv2d(call: _Call, conv: BinaryConv2d, x: Tensor) -> str:
    if conv.padding_mode != 'zeros':
        _refuse(call.recorder.place(), f'padding mode {conv.padding_mode!r}')
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    attributes = _window(
        conv.kernel_size,
        conv.stride,
        (top, left, bottom, right),
        conv.dilation,
        conv.groups,
    )
    arrays = _binary(call, conv)
    return call.recorder.emit(
        'binary_conv2d',
        [call.recorder.name(x, call)],
        attributes | dict(binarize_input=conv.binarize_input),
        arrays,
        call.recorder.layer(weight=conv.weight),
    )


def _binary_linear(call: _Call, linear: BinaryLinear, x: Tensor) -> str:
    if x.dim() != 2:
        _refuse(call.recorder.place(), f'an input of {x.dim()} dimensions; flatten it')
    arrays = _binary(call, linear)
    name = call.recorder.name(x, call)
    if 'threshold' in arrays:  # one for each feature
        name = call.recorder.vector(name)
    return call.recorder.emit(
        'binary_linear',
        [name],
        dict(binarize_input=linear.binarize_input),
        arrays,
        call.recorder.layer(weight=linear.weight),
    )


def _pad_shortcut(call: _Call, shortcut: PadShortcut, x: Tensor) -> str:
    attributes = dict(
        stride=shortcut.stride, before=shortcut.front, after=shortcut.back
    )
    return call.recorder.emit('pad_shortcut', [call.recorder.name(x, call)], attributes)


def _by_channel(call: _Call, x: Tensor, *parameters: Tensor) -> tuple[str, list]:
    """A value as channels, and parameters spread over them."""
    recorder = call.recorder
    arrays = [recorder.array(p, 'parameter', call).ravel() for p in parameters]
    name = recorder.name(x, call)
    if x.dim() == 2 and any(array.size > 1 for array in arrays):
        name = recorder.vector(name)
    channels = recorder.shapes[name][0]
    return name, [np.repeat(a, channels) if a.size == 1 else a for a in arrays]


def _rprelu(call: _Call, module: RPReLU, x: Tensor) -> str:
    recorder = call.recorder
    parameters = module.shift_in, module.weight, module.shift_out
    name, (before, slope, after) = _by_channel(call, x, *parameters)
    path = recorder.layer(weight=module.weight)

    def shifted(name: str, shift: np.ndarray, role: str) -> str:
        affine = np.stack([np.ones_like(shift), shift])
        layer = f'{path}.{role}' if path else None
        return recorder.emit('affine', [name], {}, dict(affine=affine), layer)

    name = shifted(name, before, 'shift_in')
    name = recorder.emit('prelu', [name], {}, dict(negative=slope), path)
    return shifted(name, after, 'shift_out')


def _maxout(call: _Call, module: Maxout, x: Tensor) -> str:
    parameters = module.positive, module.negative
    name, (positive, negative) = _by_channel(call, x, *parameters)
    arrays = dict(negative=negative, positive=positive)
    path = call.recorder.layer(positive=module.positive)
    return call.recorder.emit('prelu', [name], {}, arrays, path)


_LAYERS: dict[type, Callable] = {
    BinaryConv2d: _binary_conv2d,
    BinaryLinear: _binary_linear,
    PadShortcut: _pad_shortcut,
    RPReLU: _rprelu,
    Maxout: _maxout,
}


# --------------------------------------------------------------------------
# Functions of torch: its own signature, and the name of the output.


def _pair(call: _Call, what: str, value: Any) -> tuple[int, int]:
    """One number or two of them; torch takes tuples, lists and tensors' sizes."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        call.refuse(f'{what} {value!r}')
    return int(sides[0]), int(sides[1])


def _compact(sides: tuple) -> Any:
    return sides[0] if len(set(sides)) == 1 else list(sides)


def _window(kernel, stride, padding, dilation=(1, 1), groups=1) -> dict:
    """The attributes of a window, numbers where both sides are alike."""
    attributes = dict(
        kernel=_compact(kernel), stride=_compact(stride), padding=_compact(padding)
    )
    if set(dilation) != {1}:
        attributes['dilation'] = _compact(dilation)
    if groups != 1:
        attributes['groups'] = groups
    return attributes


def _conv2d(
    call, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if not recorder._touches(input) or recorder._touches((weight, bias)):
        call.refuse('its weights are made of an image')
    arrays = dict(weight=recorder.array(weight, 'weight', call))
    if bias is not None:
        arrays['bias'] = recorder.array(bias, 'bias', call)
    kernel = tuple(weight.shape[2:])
    stride = _pair(call, 'stride', stride)
    dilation = _pair(call, 'dilation', dilation)
    if padding == 'same':  # torch pads once more at the end where it has to
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = total[0] // 2, total[1] // 2, -(-total[0] // 2), -(-total[1] // 2)
    elif padding == 'valid':
        pads = (0, 0, 0, 0)
    else:
        pads = _pair(call, 'padding', padding) * 2
    attributes = _window(kernel, stride, pads, dilation, groups)
    del attributes['kernel']
    return recorder.emit(
        'conv2d',
        [recorder.name(input, call)],
        attributes,
        arrays,
        recorder.layer(weight=weight, bias=bias),
    )


def _linear(call, input, weight, bias=None) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if not recorder._touches(input) or recorder._touches((weight, bias)):
        call.refuse('its weights are made of an image')
    if input.dim() != 2:
        call.refuse(f'an input of {input.dim()} dimensions; flatten it')
    arrays = dict(weight=recorder.array(weight, 'weight', call))
    if bias is not None:
        arrays['bias'] = recorder.array(bias, 'bias', call)
    return recorder.emit(
        'linear',
        [recorder.name(input, call)],
        {},
        arrays,
        recorder.layer(weight=weight, bias=bias),
    )


def _batch_norm(
    call,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if training or running_mean is None:
        call.refuse(
            'it takes the statistics of the batch, and a packed network sees single '
            'images; train with track_running_stats=True'
        )
    mean = recorder.array(running_mean, 'mean', call)
    variance = recorder.array(running_var, 'variance', call)
    slope = np.float32(1) if weight is None else recorder.array(weight, 'weight', call)
    offset = np.float32(0) if bias is None else recorder.array(bias, 'bias', call)
    # In evaluation torch computes alpha = weight * (1 / sqrt(var + eps)) and
    # beta = fma(-mean, alpha, bias), each rounded to float32, and one fused
    # multiply-add for each value: with these two the same bits come out.
    with np.errstate(all='ignore'):
        alpha = slope * (1 / np.sqrt(variance + np.float32(eps)))
        # The product of two float32 is exact in float64.
        beta = (offset - mean.astype(np.float64) * alpha).astype(np.float32)
    affine = np.stack([alpha, beta])
    if not np.isfinite(affine).all():
        call.refuse('a slope or an offset is NaN or infinite; look at its variance')
    name = recorder.name(input, call)
    if input.dim() == 2:
        name = recorder.vector(name)
    layer = None
    if weight is not None and bias is not None:
        layer = recorder.layer(weight=weight, bias=bias)
    return recorder.emit('affine', [name], {}, dict(affine=affine), layer)


def _clamp(call, input, min=None, max=None) -> str:
    recorder = call.recorder
    for limit in (min, max):
        if limit is not None and not isinstance(limit, (int, float)):
            call.refuse('its limits are no numbers')
    name = recorder.name(input, call)
    low, high = (
        None if v is None or abs(v) == np.inf else float(v) for v in (min, max)
    )
    if (low, high) == (-1, 1):
        return recorder.emit('hardtanh', [name])
    if (low, high) == (0, None):
        return recorder.emit('relu', [name])
    if (low, high) == (None, None):
        call.refuse('it has no limits')
    return recorder.emit('clamp', [name], dict(low=low, high=high))


def _hardtanh(call, input, min_val=-1.0, max_val=1.0, inplace=False) -> str:
    return _clamp(call, input, min_val, max_val)


def _relu(call, input, inplace=False) -> str:
    return _clamp(call, input, 0)


def _relu6(call, input, inplace=False) -> str:
    return _clamp(call, input, 0, 6)


def _prelu(call, input, weight) -> str:
    name, (slopes,) = _by_channel(call, input, weight)
    layer = call.recorder.layer(weight=weight)
    return call.recorder.emit('prelu', [name], {}, dict(negative=slopes), layer)


def _dropout(call, input, p=0.5, training=True, inplace=False) -> str:
    if training:
        call.refuse('it drops values in evaluation too; pass training=self.training')
    return call.recorder.name(input, call)


def _same(call, input, *args, **kwargs) -> str:
    """Copies and casts: `give` refuses those that change the type."""
    return call.recorder.name(input, call)


def _affine(call, value: Any, factor: float, offset: float) -> str:
    recorder = call.recorder
    name = recorder.name(value, call)
    if factor == 1 and offset == 0:
        return name
    attributes = dict(factor=float(factor), offset=float(offset))
    return recorder.emit('scale', [name], attributes)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _by_parameter(call, a: Any, b: Any) -> tuple[Any, np.ndarray] | None:
    """A value and the parameter beside it, as one number for each of its channels.

    None where there is no such pair.
    """
    recorder = call.recorder
    for value, other in ((a, b), (b, a)):
        if not isinstance(value, Tensor) or value not in recorder.values:
            continue
        if isinstance(other, Tensor) and id(other) in recorder.parameters:
            shape = (1,) * (value.dim() - other.dim()) + tuple(other.shape)
            if len(shape) != value.dim() or shape not in (
                (1,) * value.dim(),
                (1, value.shape[1], *[1] * (value.dim() - 2)),
            ):
                call.refuse(
                    f'a parameter of shape {tuple(other.shape)} is no number for each '
                    f'channel of {tuple(value.shape)}'
                )
            return value, recorder.array(other, 'operand', call).ravel()
    return None


def _affine_by(call, value: Any, factor: np.ndarray, offset: np.ndarray) -> str:
    """Say what factor * value + offset is, of arrays of a number or one a channel."""
    recorder = call.recorder
    name = recorder.name(value, call)
    if value.dim() == 2:
        name = recorder.vector(name)
    channels = recorder.shapes[name][0]
    spread = [np.broadcast_to(np.float32(v), channels) for v in (factor, offset)]
    return recorder.emit('affine', [name], {}, dict(affine=np.stack(spread)))


def _sum(call, a: Any, b: Any, sign: float = 1) -> str:
    """Say what a + sign * b is, of values, parameters and numbers."""
    recorder = call.recorder
    if (pair := _by_parameter(call, a, b)) is not None:
        value, offset = pair
        factor = np.float32(1)
        if value is a:
            offset = np.float32(sign) * offset
        else:
            factor = np.float32(sign)
        return _affine_by(call, value, factor, offset)
    if _number(b):
        return _affine(call, a, 1, sign * b)
    if _number(a):
        return _affine(call, b, sign, a)
    first, second = recorder.name(a, call), recorder.name(b, call)
    if a.shape != b.shape:
        call.refuse(
            f'tensors of shapes {tuple(a.shape)} and {tuple(b.shape)} are broadcast'
        )
    if sign != 1:
        second = _affine(call, b, sign, 0)
    if recorder.shapes[first] != recorder.shapes[second]:
        first, second = recorder.vector(first), recorder.vector(second)
    return recorder.emit('add', [first, second])


def _rsub(call, input, other) -> str:
    """Say what other - input is: the sign is exact, so that one rounding is left."""
    if not _number(other):
        call.refuse('its operands are no value and number')
    return _affine(call, input, -1, other)


def _add(call, input, other, *, alpha=1) -> str:
    # x + alpha * y rounds once, a scale and a sum twice.
    if not _number(alpha) or not _power_of_two(alpha):
        call.refuse(f'alpha={alpha!r} is no power of two')
    return _sum(call, input, other, alpha)


def _sub(call, input, other, *, alpha=1) -> str:
    if _number(alpha):
        return _add(call, input, other, alpha=-alpha)
    call.refuse(f'alpha={alpha!r}')


def _power_of_two(value: float) -> bool:
    return value != 0 and abs(np.frexp(value)[0]) == 0.5


def _mul(call, input, other) -> str:
    if (pair := _by_parameter(call, input, other)) is not None:
        return _affine_by(call, *pair, np.float32(0))
    value, factor = (input, other) if _number(other) else (other, input)
    if not _number(factor):
        call.refuse('a product of two tensors, none of them a parameter of the model')
    return _affine(call, value, factor, 0)


def _div(call, input, other, *, rounding_mode=None) -> str:
    if rounding_mode is not None or not _number(other) or not _power_of_two(other):
        call.refuse('only divisions by a power of two; multiply by the reciprocal')
    return _affine(call, input, 1 / other, 0)


def _neg(call, input) -> str:
    return _affine(call, input, -1, 0)


def _pool_window(call, input, kernel_size, stride, padding, ceil_mode) -> dict:
    """A pooling's window; rounding up is padding at the end."""
    if input.dim() != 4:
        call.refuse(f'an input of {input.dim()} dimensions')
    kernel = _pair(call, 'kernel', kernel_size)
    given = stride is not None and stride != []
    stride = _pair(call, 'stride', stride) if given else kernel
    top, left = _pair(call, 'padding', padding)
    ends = [top, left]
    if ceil_mode:
        for i, size in enumerate(call.run().shape[2:]):
            used = (size - 1) * stride[i] + kernel[i] - input.shape[2 + i]
            ends[i] = max(ends[i], used - (top, left)[i])
    return _window(kernel, stride, (top, left, *ends))


def _max_pool2d(
    call,
    input,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> str:
    if return_indices or _pair(call, 'dilation', dilation) != (1, 1):
        call.refuse('return_indices or dilation')
    attributes = _pool_window(call, input, kernel_size, stride, padding, ceil_mode)
    name = call.recorder.name(input, call)
    return call.recorder.emit('max_pool2d', [name], attributes)


def _avg_pool2d(
    call,
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> str:
    if divisor_override is not None:
        call.refuse('divisor_override')
    attributes = _pool_window(call, input, kernel_size, stride, padding, ceil_mode)
    given = _pair(call, 'padding', padding)
    include = count_include_pad and given != (0, 0)
    if include and attributes['padding'] != _compact(given * 2):
        call.refuse('ceil_mode and count_include_pad together')
    attributes['include_pad'] = include
    return call.recorder.emit(
        'avg_pool2d', [call.recorder.name(input, call)], attributes
    )


def _adaptive(call, input, output_size) -> tuple[int, int]:
    """The kernel of an adaptive pooling, whose windows have to be alike."""
    if input.dim() != 4:
        call.refuse(f'an input of {input.dim()} dimensions')
    sides = output_size if isinstance(output_size, (tuple, list)) else [output_size] * 2
    kernel = []
    for side, size in zip(sides, input.shape[2:], strict=True):
        side = size if side is None else side
        if size % side:
            call.refuse(f'{size} pixels do not divide into {side} windows')
        kernel.append(size // side)
    return tuple(kernel)


def _adaptive_avg_pool2d(call, input, output_size) -> str:
    kernel = _adaptive(call, input, output_size)
    name = call.recorder.name(input, call)
    if kernel == tuple(input.shape[2:]):
        return call.recorder.emit('average_pool', [name])
    if kernel == (1, 1):
        return name
    attributes = _window(kernel, kernel, (0, 0, 0, 0)) | dict(include_pad=False)
    return call.recorder.emit('avg_pool2d', [name], attributes)


def _adaptive_max_pool2d(call, input, output_size, return_indices=False) -> str:
    if return_indices:
        call.refuse('return_indices')
    kernel = _adaptive(call, input, output_size)
    name = call.recorder.name(input, call)
    attributes = _window(kernel, kernel, (0, 0, 0, 0))
    return call.recorder.emit('max_pool2d', [name], attributes)


def _mean(call, input, dim=None, keepdim=False, *, dtype=None) -> str:
    dims = dim if isinstance(dim, (tuple, list)) else [dim]
    if input.dim() != 4 or None in dims or {d % 4 for d in dims} != {2, 3}:
        call.refuse('only over height and width together, dim=(2, 3)')
    return call.recorder.emit('average_pool', [call.recorder.name(input, call)])


def _reshape(call, input, *args, **kwargs) -> str:
    """Any new shape that keeps (C, H, W) or makes features of it."""
    recorder = call.recorder
    name = recorder.name(input, call)
    result, shape = call.run(), recorder.shapes[name]
    rest = tuple(result.shape[1:])
    if isinstance(result, Tensor) and len(result) == recorder.batch:
        if rest == tuple(input.shape[1:]) or rest == shape:
            return name
        if rest == (prod(shape),):
            return recorder.emit('flatten', [name])
        if rest == (prod(shape), 1, 1):
            return recorder.vector(name)
    call.refuse(
        f'gives a tensor of shape {tuple(result.shape)} from {recorder.batch} images; '
        'only flattening, flatten(1), has an operation'
    )


def _getitem(call, input, index) -> str:
    """Every n-th pixel, x[:, :, ::n, ::n], or new axes, x[:, :, None, None]."""
    recorder = call.recorder
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or part == slice(None) for part in parts):
        return _reshape(call, input)
    steps = [
        part.step or 1
        for part in parts
        if isinstance(part, slice) and (part.start, part.stop) == (None, None)
    ]
    if len(steps) != len(parts):
        call.refuse(f'{index!r} takes a part of a tensor')
    steps += [1] * (4 - len(steps))
    if input.dim() != 4 or steps[:2] != [1, 1] or steps[2] != steps[3]:
        call.refuse('only every n-th pixel of both sides, x[:, :, ::n, ::n]')
    attributes = dict(stride=steps[2], before=0, after=0)
    return recorder.emit('pad_shortcut', [recorder.name(input, call)], attributes)


def _pad(call, input, pad, mode='constant', value=None) -> str:
    """Channels of zeros."""
    pads = list(pad) + [0] * (8 - len(pad))
    if mode != 'constant' or value not in (None, 0) or input.dim() != 4:
        call.refuse(f'mode {mode!r}, value {value!r}; only channels of zeros')
    if any(pads[:4] + pads[6:]) or min(pads) < 0:
        call.refuse('only channels are padded; give a convolution its own padding')
    attributes = dict(stride=1, before=pads[4], after=pads[5])
    name = call.recorder.name(input, call)
    return call.recorder.emit('pad_shortcut', [name], attributes)


_FUNCTIONS: dict[Callable, Callable] = {}


def _register(record: Callable, *functions: Callable) -> None:
    _FUNCTIONS.update(dict.fromkeys(functions, record))


_register(_conv2d, torch.conv2d)
_register(_linear, F.linear)
_register(_batch_norm, F.batch_norm)
_register(_clamp, torch.clamp, torch.clamp_, torch.clip, torch.clip_)
_register(_clamp, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_)
_register(_hardtanh, F.hardtanh, torch._C._nn.hardtanh, torch._C._nn.hardtanh_)
_register(_relu, F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
_register(_relu6, F.relu6)
_register(_prelu, torch.prelu, Tensor.prelu)
_register(_dropout, F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout)
_register(_dropout, F.feature_alpha_dropout)
_register(_same, Tensor.contiguous, Tensor.clone, torch.clone, Tensor.float)
_register(_same, Tensor.to, Tensor.type_as, Tensor.detach, torch.detach, Tensor.cpu)
_register(_add, torch.add, Tensor.add, Tensor.add_, Tensor.__radd__)
_register(_sub, torch.sub, Tensor.sub, Tensor.sub_, torch.subtract, Tensor.subtract)
_register(_rsub, Tensor.__rsub__)
_register(_mul, torch.mul, Tensor.mul, Tensor.mul_, torch.multiply, Tensor.multiply)
_register(_div, torch.div, Tensor.div, Tensor.div_, torch.true_divide)
_register(_neg, torch.neg, Tensor.neg, Tensor.neg_)
_register(_max_pool2d, F.max_pool2d, torch.max_pool2d)
_register(_avg_pool2d, F.avg_pool2d)
_register(_adaptive_avg_pool2d, F.adaptive_avg_pool2d)
_register(_adaptive_max_pool2d, F.adaptive_max_pool2d)
_register(_mean, torch.mean, Tensor.mean)
_register(_reshape, torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape)
_register(_reshape, Tensor.view, torch.squeeze, Tensor.squeeze, Tensor.unflatten)
_register(_reshape, torch.unsqueeze, Tensor.unsqueeze, torch.unflatten)
_register(_reshape, Tensor.view_as, Tensor.reshape_as)
_register(_getitem, Tensor.__getitem__)
_register(_pad, F.pad)

# What a tensor is, whatever its values.
_FACTS = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.stride,
    Tensor.is_contiguous,
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    torch.is_complex,
    torch.numel,
    Tensor.ndimension,
    Tensor.nelement,
    Tensor.element_size,
    Tensor.__len__,
    *(
        getattr(Tensor, name).__get__
        for name in (
            *('shape', 'ndim', 'dtype', 'device', 'layout', 'requires_grad'),
            *('is_cuda', 'is_meta', 'is_sparse', 'is_quantized', 'is_mkldnn'),
            *('is_leaf', 'grad_fn', 'itemsize', 'nbytes'),
        )
    ),
}
# What leads from the values of a tensor to Python.
_PEEKS = {
    getattr(Tensor, name)
    for name in (
        *('__bool__', '__float__', '__int__', '__index__', '__contains__'),
        *('__array__', 'numpy', 'item', 'tolist', 'is_nonzero', 'equal', 'allclose'),
    )
} | {torch.equal, torch.allclose, torch.is_nonzero}
