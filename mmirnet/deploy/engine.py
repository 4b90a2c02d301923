"""Runs a packed network on xor and popcount; needs numpy and safetensors."""

import os
import sys
from importlib import import_module
from math import inf, prod
from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingPackageError
from . import plan
from .format import Packed, geometry, read

try:
    _engine = import_module(f'{__package__}._engine')
except ImportError as error:  # installed without a compiler
    _engine, _reason = None, error


def _native():
    if _engine is None:
        raise MissingPackageError(
            'The 1-bit engine was not built when mmirnet was installed '
            f'({_reason}). Install a C++17 compiler and CMake, then '
            '`pip install --force-reinstall --no-deps .` in a checkout of mmirnet.'
        )
    return _engine


def instruction_sets() -> list[str]:
    """Names this CPU can run, best first; ``MMIRNET_ISA`` takes one of them."""
    return _native().instruction_sets()


def _library() -> str:
    """OneDNN as installed beside the engine, or '' for plain loops."""
    # An editable install keeps what was built apart from this file.
    found = sorted(Path(_native().__file__).parent.glob('libdnnl.*'))
    return str(found[0]) if found else ''


def default_threads() -> int:
    """One in a worker process of a data loader or pool, else every core."""
    torch_data = sys.modules.get('torch.utils.data')
    if torch_data is not None and torch_data.get_worker_info() is not None:
        return 1
    multiprocessing = sys.modules.get('multiprocessing')
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return 1
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def unpack_signs(signs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits of every filter, of shape ``(out, *shape)``, as uint8 0 and 1.

    Args:
        signs: uint64 of shape (out, words), as in a packed file.
        shape: Of one filter, in the order of its bits.
    """
    octets = np.ascontiguousarray(signs, '<u8').view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder='little')
    return bits[:, : prod(shape)].reshape(-1, *shape)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """The last axis of 0 and 1 in words of 64, the first in bit 0."""
    tail = -bits.shape[-1] % 64
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, tail)])
    return np.packbits(bits, axis=-1, bitorder='little').view('<u8')


def _signs_of(operation: dict, tensors: dict, shape: tuple) -> np.ndarray:
    """Bits (out, height, width, channels) of the filters of a binary layer.

    Args:
        operation: A binary convolution or linear layer.
        tensors: Its tensors.
        shape: (channels, height, width) of its input.
    """
    if operation['op'] == 'binary_linear':  # in the order of its features
        return unpack_signs(tensors['signs'], shape).transpose(0, 2, 3, 1)
    window = geometry(operation)
    filters = *window.kernel, shape[0] // window.groups
    return unpack_signs(tensors['signs'], filters)


def binary_weight(operation: dict, tensors: dict, shape: tuple) -> np.ndarray:
    """+-s of a binary layer as float32 (out, height, width, channels).

    Args:
        operation: A binary convolution or linear layer.
        tensors: Its tensors.
        shape: (channels, height, width) of its input.
    """
    bits = _signs_of(operation, tensors, shape)
    scale = np.exp2(tensors['exponent'].astype(np.float32))
    return (bits.astype(np.float32) * 2 - 1) * scale[:, None, None, None]


class Engine:
    """A packed network, ready to predict.

    Args:
        packed: A checked network.
        threads: Threads of one call; by default all cores, and one inside a
            worker process, whose siblings already use the others.
        isa: Instruction set; by default ``MMIRNET_ISA``, else the best.

    Raises:
        ImportError: If the engine was not built.
        ValueError: If the CPU does not have the instruction set.
    """

    def __init__(
        self, packed: Packed, threads: int | None = None, isa: str | None = None
    ):
        native = _native()
        isa = isa or os.environ.get('MMIRNET_ISA', '')
        if isa and isa not in native.instruction_sets():
            raise ConfigError(
                f'instruction set {isa!r} is not one of {native.instruction_sets()}'
            )
        self.packed = Packed(
            packed.input,
            packed.graph,
            {},
            packed.classes,
            packed.source,
            packed.shapes,
            head=packed.head,
        )
        self.input = packed.input
        self.classes = packed.classes
        steps, logits = plan.fuse(packed)
        places, size = plan.buffers(packed, steps, logits)
        self._network = native.Network(
            isa, _library(), threads or default_threads(), size
        )
        self._tensors = {}
        kinds = {
            'image': native.Kind.IMAGE,
            'floats': native.Kind.FLOATS,
            'bits': native.Kind.BITS,
        }
        for place in places:
            channels, height, width = place.shape
            self._tensors[place.value, place.kind] = self._network.add_tensor(
                kinds[place.kind], height, width, channels, place.pad, place.offset
            )
        self._network.set_input(
            self._tensors['input', 'image'],
            np.array(packed.input['mean'], np.float32),
            np.array(packed.input['std'], np.float32),
        )
        for step in steps:
            self._add(step, packed)
        self._network.set_output(self._tensors[logits, 'floats'])

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._network.isa

    @property
    def threads(self) -> int:
        """Threads of one call."""
        return self._network.threads

    def _source(self, step: plan.Step) -> int:
        kind = 'bits' if step.kind == 'binary_conv2d' else 'floats'
        if step.source == 'input' and step.kind in ('conv2d', 'image'):
            kind = 'image'
        return self._tensors[step.source, kind]

    def _add(self, step: plan.Step, packed: Packed) -> None:
        network, op, source = self._network, step.operation, self._source(step)
        if step.kind in _MOVES:
            _MOVES[step.kind](
                network, source, step, self._tensors[step.output, 'floats']
            )
            return
        finish = _engine.Finish(
            *plan.affine(step, packed),
            *(step.clamp or (-inf, inf)),
            residual=self._tensors.get((step.residual, 'floats'), -1),
            out=self._tensors.get((step.output, 'floats'), -1),
            bits=self._tensors.get((step.output, 'bits'), -1),
        )
        if step.kind in ('map', 'image'):
            network.add_map(source, finish)
            return
        window = _engine.Window(*step.window[:4])
        if step.kind == 'max_pool2d':
            network.add_max_pool(source, window, finish)
            return
        tensors = packed.operation_tensors(op)
        shape = packed.shapes[op['src'][0]]
        if step.kind == 'binary_conv2d':
            # The kernels start a word with each position.
            signs = pack_bits(_signs_of(op, tensors, shape))
            network.add_binary_conv(source, window, np.ascontiguousarray(signs), finish)
        else:
            weight = np.ascontiguousarray(_float_weight(op, tensors, shape), np.float32)
            network.add_conv(source, window, step.window.groups, weight, finish)

    def predict(self, images) -> np.ndarray:
        """Logits of a batch.

        Args:
            images: uint8 of shape (N, H, W, C), RGB or grey, also for a network
                that was trained on BGR, which the engine turns them to; or
                float32 of shape (N, C, H, W), already normalised, in the
                network's own order. A numpy array or anything it can be made
                from, such as a torch tensor on the CPU.

        Returns:
            float32 of shape (N, classes).

        Raises:
            ValueError: If the images have another shape.
            TypeError: If they are neither uint8 nor float.

        Example:
            >>> from mmirnet.deploy import pack
            >>> from torch import nn
            >>> net = nn.Sequential(
            ...     nn.Conv2d(3, 8, 3, bias=False),
            ...     nn.AdaptiveAvgPool2d(1),
            ...     nn.Flatten(),
            ...     nn.Linear(8, 2),
            ... )
            >>> engine = Engine(pack(net, (8, 8)), threads=1)
            >>> engine.predict(np.zeros((5, 8, 8, 3), np.uint8)).shape
            (5, 2)
        """
        images = np.asarray(images)
        spec = self.input
        size = spec['channels'], spec['height'], spec['width']
        if images.dtype == np.uint8:
            wanted = (*size[1:], size[0])
        elif np.issubdtype(images.dtype, np.floating):
            wanted = size
        else:
            raise TypeError(f'images must be uint8 or float, not {images.dtype}')
        if images.shape[1:] != wanted:
            raise ConfigError(
                f'{images.dtype} images must have shape (N, '
                f'{", ".join(map(str, wanted))}), not {images.shape}'
            )
        if images.dtype == np.uint8 and spec['order'] == 'bgr':
            images = images[..., ::-1]
        dtype = np.uint8 if images.dtype == np.uint8 else np.float32
        return self._network.predict(np.ascontiguousarray(images, dtype))


def _float_weight(op: dict, tensors: dict, shape: tuple) -> np.ndarray:
    """Weight as (out, height, width, in)."""
    if op['op'].startswith('binary'):
        return binary_weight(op, tensors, shape)
    weight = tensors['weight']
    if op['op'] == 'linear':
        # Features come as (C, H, W): a window as large as the image.
        weight = weight.reshape(-1, *shape)
    return weight.transpose(0, 2, 3, 1)


def _add_average_pool(network, source: int, step: plan.Step, out: int) -> None:
    window = _engine.Window(*step.window[:4])
    include_pad = step.operation.get('include_pad', False)
    network.add_average_pool(source, window, include_pad, out)


# Steps that fuse with nothing: (network, source, step, output).
_MOVES = {
    'average_pool': _add_average_pool,
    'avg_pool2d': _add_average_pool,
    'pad_shortcut': lambda network, source, step, out: network.add_shortcut(
        source, step.operation['stride'], step.operation['before'], out
    ),
    'sign': lambda network, source, step, out: network.add_sign(source, out),
    'vector': lambda network, source, step, out: network.add_vector(source, out),
}


def load(
    path: str | os.PathLike, threads: int | None = None, isa: str | None = None
) -> Engine:
    """Loads a packed file into the 1-bit engine.

    Args:
        path: A file written by ``tools/deploy/pack.py``.
        threads: See :class:`Engine`.
        isa: See :class:`Engine`.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
        ImportError: If the engine was not built.
    """
    return Engine(read(path), threads, isa)
