"""Runs a network once and records its operations."""

import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ...binary import BinaryConv2d, BinaryLinear
from ...errors import UnsupportedModelError, first_line
from ..ops import shape_of
from .calls import FUNCTIONS, LAYERS, Call, name_of, refuse

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = str(Path(__file__).parent) + os.sep
_DTYPES = {'f': 'F32', 'b': 'I8', 'L': 'U64', 'Q': 'U64'}
# Properties of a tensor that do not depend on its values.
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
# What a binary layer computes, beside its forward.
_METHODS = '_operands', 'quantized', 'input_threshold', 'input_affine'
# Functions that return the values of a tensor to Python.
_PEEKS = {
    getattr(Tensor, name)
    for name in (
        *('__bool__', '__float__', '__int__', '__index__', '__contains__'),
        *('__array__', 'numpy', 'item', 'tolist', 'is_nonzero', 'equal', 'allclose'),
    )
} | {torch.equal, torch.allclose, torch.is_nonzero}


class DoesNotRun(Exception):
    """The network itself fails on the images it was given."""


@dataclass
class Recording:
    """The operations of a network.

    Attributes:
        graph: Operations, as in a packed file; the last one gives the logits.
        tensors: Arrays by name: float32, or uint64 signs and int8 exponents.
        channels: Channels of an image.
    """

    graph: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    channels: int = 3


class Recorder(TorchFunctionMode):
    """Runs a model once and records its operations."""

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

    def record(
        self, batch: int, channels: int, size: tuple[int, int], factor: float = 1
    ) -> Recording:
        """Runs the model on random images and returns its operations."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(
            *(batch, channels, *size), generator=generator, dtype=torch.float32
        )
        images *= factor
        self.batch = batch
        self.recording.channels = channels
        self.shapes['input'] = (channels, *size)
        self.values[images] = 'input', images._version
        handles = self._watch()
        try:
            with (
                torch.no_grad(),
                torch.random.fork_rng(devices=[]),
                _without_chance(),
                _uncompiled(),
                self,
            ):
                output = self.model(images)
            self._finish(output)
        except (UnsupportedModelError, DoesNotRun):
            raise
        except Exception as error:
            raise DoesNotRun(
                f'{self.place(error)}: it does not run on images of '
                f'{tuple(images.shape)}: {first_line(error)}'
            ) from error
        finally:
            for handle in handles:
                handle.remove()
            for module in self.taken_over:
                del module.forward
        return self.recording

    def _watch(self) -> list:
        """Tracks the module of each call, and replaces the forward of whole layers."""
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
            for kind, record in LAYERS.items():
                if isinstance(module, kind) and 'forward' not in vars(module):
                    module.forward = partial(_layer, self, module, kind, record)
                    self.taken_over.append(module)
        return handles

    def run(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Calls a function without recording what it calls."""
        before, self.recording_on = self.recording_on, False
        try:
            return function(*args, **kwargs)
        finally:
            self.recording_on = before

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.recording_on or not self.touches((args, kwargs)):
            return function(*args, **kwargs)
        if function in _FACTS:
            return function(*args, **kwargs)
        call = Call(self, function, args, kwargs)
        if function in _PEEKS:
            refuse(
                self.place(),
                f'{name_of(function)} asks for the values of an image, and a packed '
                'network goes one way for all',
            )
        if function not in FUNCTIONS:
            call.refuse('the packed format has no such operation')
        record = FUNCTIONS[function]
        try:
            bound = inspect.signature(record).bind(call, *args, **kwargs)
        except TypeError as error:
            call.refuse(first_line(error))
        name = record(*bound.args, **bound.kwargs)
        result = call.run()
        self.give(result, name, call)
        return result

    def touches(self, value: Any) -> bool:
        """Whether a value, or a value inside it, depends on the images."""
        if isinstance(value, Tensor):
            return value in self.values
        if isinstance(value, dict):
            value = tuple(value.values())
        return isinstance(value, (tuple, list)) and any(map(self.touches, value))

    # ---- values and operations

    def place(self, error: BaseException | None = None) -> str:
        """Returns the current place in the model: module and line of code."""
        path, module = self.stack[-1] if self.stack else ('', self.model)
        what = [type(module).__name__]
        own = type(module).__module__.startswith('torch.nn.')
        if not own or isinstance(module, (nn.Sequential, nn.ModuleList)):
            what += _where(error)
        return f'{path or "the model"} ({", ".join(what)})'

    def name(self, value: Any, call: Call) -> str:
        """Returns the name of a value in the graph."""
        if not isinstance(value, Tensor) or value not in self.values:
            call.refuse('an operand is made of no image')
        name, version = self.values[value]
        if version != value._version:
            call.refuse('an operand was changed in place under another name')
        return name

    def give(self, result: Any, name: str, call: Call) -> None:
        """Gives a result of torch the name of a value in the graph."""
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
    ) -> str:
        """Adds an operation and returns the name of its output."""
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
            refuse(self.place(), str(error))
        self.recording.graph.append(operation)
        self.recording.tensors |= tensors
        self.shapes[output] = shape
        return output

    def array(self, tensor: Any, role: str, call: Call) -> np.ndarray:
        """Returns the values of a parameter."""
        if not isinstance(tensor, Tensor) or id(tensor) not in self.parameters:
            call.refuse(
                f'its {role} is no parameter of the model: computed anew (as by '
                'weight_norm, pruning, a parametrization), or that of another network'
            )
        array = tensor.detach().cpu().float().contiguous().numpy().copy()
        if not np.isfinite(array).all():
            refuse(self.parameters[id(tensor)], 'it holds NaN or infinity')
        return array

    def layer(self, **parameters: Tensor | None) -> str | None:
        """Returns the path of the module that has parameters of these names."""
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
        """Returns a value with one channel per feature."""
        if self.shapes[name][1:] == (1, 1):
            return name
        return self.emit('vector', [name])

    def _finish(self, output: Any) -> None:
        """Makes the output the logits of the graph."""
        if hasattr(output, 'items'):
            output = list(output.values())
        if isinstance(output, (tuple, list)):
            if len(output) != 1:
                refuse(
                    'the model',
                    f'it gives {len(output)} outputs, and a packed network gives one',
                )
            output = output[0]
        if not isinstance(output, Tensor):
            refuse('the model', f'its output is {type(output).__name__}, no tensor')
        if output not in self.values or self.values[output][1] != output._version:
            refuse('the model', 'its output is not what its layers gave')
        name = self.values[output][0]
        if output.dim() == 4 and self.shapes[name][1:] != (1, 1):
            channels, height, width = self.shapes[name]
            refuse(
                'the model',
                f'it gives maps of {channels}x{height}x{width}, no vector of logits; '
                'pool and flatten them, and add a linear layer',
            )
        if name == 'input':
            refuse('the model', 'its output is the image itself')
        logits = self.vector(name)
        if output.dim() == 4:
            logits = self.emit('flatten', [logits])
        self._keep(logits)

    def _keep(self, logits: str) -> None:
        """Drops the operations and tensors that the logits do not depend on."""
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


def _layer(
    recorder: Recorder,
    module: nn.Module,
    kind: type,
    record: Callable,
    *args,
    **kwargs,
) -> Any:
    """Records a layer as a whole, in the place of its forward."""
    call = Call(recorder, type(module), (module, *args), kwargs)
    forward = type(module).forward
    if not recorder.touches((args, kwargs)):
        return recorder.run(forward, module, *args, **kwargs)
    given = type(module)
    if not _computes_as(given, kind) or hasattr(module, 'parametrizations'):
        base = next(c for c in given.__mro__[1:] if _computes_as(c, kind))
        refuse(
            recorder.place(),
            f'a subclass of {base.__name__}, or a parametrized one, may compute '
            'something else; only the class itself is packed',
        )
    if replaced := [name for name in _METHODS if name in vars(module)]:
        refuse(recorder.place(), f'its {replaced[0]} was replaced by another')
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
    names = 'forward', *_METHODS
    return all(getattr(given, name) is getattr(kind, name) for name in names)


@contextmanager
def _without_chance() -> Iterator[None]:
    """Refuses a model that draws random numbers: two recordings may agree by chance."""
    before = _random_states()
    yield
    after = _random_states()
    if drawn := [kind for kind in before if after[kind] != before[kind]]:
        refuse(
            'the model',
            f'it draws random numbers ({", ".join(drawn)}), and a packed network '
            'computes the same in every call',
        )


def _random_states() -> dict[str, Any]:
    """The states of all global generators, which every draw changes."""
    _, keys, *rest = np.random.get_state()
    return {
        'torch': torch.get_rng_state().tolist(),
        'random': random.getstate(),
        'numpy.random': (keys.tolist(), *rest),
    }


def _uncompiled() -> AbstractContextManager:
    """Runs compiled functions uncompiled."""
    if 'torch._dynamo' not in sys.modules:  # which takes seconds to import
        return nullcontext()
    return torch.compiler.set_stance('force_eager')


def _where(error: BaseException | None) -> list[str]:
    """Returns file and line of the innermost code that is not torch's or ours."""
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
    ours = [i for i, (file, _) in enumerate(frames) if file.startswith(_OURS)]
    inside = frames[ours[0] :] if ours else frames
    for file, line in reversed(inside):
        if not file.startswith((_TORCH, _OURS, '<')):
            return [f'{os.path.basename(file)}:{line}']
    return []


def _path(name: str) -> str:
    """Returns a name as in the uncompiled network."""
    return '.'.join(part for part in name.split('.') if part != '_orig_mod')
