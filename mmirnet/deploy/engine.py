"""Runs a packed network on xor and popcount; needs numpy and safetensors."""

import os
import sys
from importlib import import_module
from math import inf
from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingPackageError
from . import plan
from .format import Packed, read

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


def unpack_signs(signs: np.ndarray, kernel: int, channels: int) -> np.ndarray:
    """Bits of shape (out, kernel, kernel, channels) as uint8 0 and 1.

    Args:
        signs: uint64 of shape (out, words), as in a packed file.
        kernel: Side of the window.
        channels: Input channels.
    """
    octets = np.ascontiguousarray(signs, '<u8').view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder='little')
    window = kernel * kernel * channels
    return bits[:, :window].reshape(-1, kernel, kernel, channels)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """The last axis of 0 and 1 in words of 64, the first in bit 0."""
    tail = -bits.shape[-1] % 64
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, tail)])
    return np.packbits(bits, axis=-1, bitorder='little').view('<u8')


def binary_weight(operation: dict, tensors: dict, channels: int) -> np.ndarray:
    """+-s of a binary convolution as float32 (out, kernel, kernel, channels)."""
    bits = unpack_signs(tensors['signs'], operation['kernel'], channels)
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
            channels, height, width = packed.shapes[place.value]
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
        kind = 'image' if step.source == 'input' else 'floats'
        if step.kind == 'binary_conv2d' and step.operation['binarize_input']:
            kind = 'bits'
        return self._tensors[step.source, kind]

    def _add(self, step: plan.Step, packed: Packed) -> None:
        network, op = self._network, step.operation
        if step.kind == 'average_pool':
            network.add_average_pool(
                self._source(step), self._tensors[step.output, 'floats']
            )
            return
        if step.kind == 'pad_shortcut':
            network.add_shortcut(
                self._source(step),
                op['stride'],
                op['before'],
                self._tensors[step.output, 'floats'],
            )
            return
        finish = _engine.Finish(
            *plan.affine(step, packed),
            *(step.clamp or (-inf, inf)),
            residual=self._tensors.get((step.residual, 'floats'), -1),
            out=self._tensors.get((step.output, 'floats'), -1),
            bits=self._tensors.get((step.output, 'bits'), -1),
        )
        source = self._source(step)
        shape = packed.shapes[step.source]
        tensors = packed.operation_tensors(op) if op else {}
        if step.kind == 'map':
            network.add_map(source, finish)
        elif step.kind == 'max_pool2d':
            window = op['kernel'], op['kernel'], op['stride'], op['padding']
            network.add_max_pool(source, _engine.Window(*window), finish)
        elif step.kind == 'binary_conv2d' and op['binarize_input']:
            kernel, signs = op['kernel'], tensors['signs']
            if shape[0] % 64:  # the kernels start a word with each position
                signs = pack_bits(unpack_signs(signs, kernel, shape[0]))
            network.add_binary_conv(
                source,
                _engine.Window(kernel, kernel, op['stride'], op['padding']),
                np.ascontiguousarray(signs),
                finish,
            )
        else:
            weight, window = _float_weight(step, tensors, shape)
            network.add_conv(source, _engine.Window(*window), weight, finish)

    def predict(self, images) -> np.ndarray:
        """Logits of a batch.

        Args:
            images: uint8 of shape (N, H, W, C), channels in the order of the
                training configuration's mean and std (RGB in this project's),
                or float32 of shape (N, C, H, W), already normalised. A numpy
                array or anything it can be made from, such as a torch tensor
                on the CPU.

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
        dtype = np.uint8 if images.dtype == np.uint8 else np.float32
        return self._network.predict(np.ascontiguousarray(images, dtype))


def _float_weight(step: plan.Step, tensors: dict, shape: tuple):
    """Weight as (out, kernel, kernel, in), and the window of its convolution."""
    op = step.operation
    if step.kind == 'binary_conv2d':  # binary weights under float activations
        weight = binary_weight(op, tensors, shape[0])
        return weight, (op['kernel'], op['kernel'], op['stride'], op['padding'])
    if step.kind == 'linear':
        # Features come as (C, H, W): a window as large as the image.
        weight, window = tensors['weight'].reshape(-1, *shape), (*shape[1:], 1, 0)
    else:
        weight = tensors['weight']
        window = *weight.shape[2:], op['stride'], op['padding']
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1), np.float32), window


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
