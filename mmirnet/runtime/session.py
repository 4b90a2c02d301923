"""Runs a packed network on xor and popcount; needs numpy and safetensors."""

import contextlib
import dataclasses
import os
import sys
import warnings
from importlib import import_module
from math import ceil, inf
from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingPackageError, NonFiniteError
from ..packed.bits import pack_bits
from ..packed.format import Packed, read
from ..packed.ops.windows import classes
from . import plan

MAX_THREADS = 1024  # as in csrc/limits.h
_UINT8, _FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)

_reason: ImportError | None = None  # why there is no session
try:
    _native = import_module(f'{__package__}._native')
except ImportError as error:  # installed without a compiler
    _native, _reason = None, error


def _loaded():
    if _native is None:
        raise MissingPackageError(
            f'{_why_missing()}. Then `pip install --force-reinstall --no-deps .` in a '
            'checkout of mmirnet.'
        )
    return _native


def _why_missing() -> str:
    if not isinstance(_reason, ModuleNotFoundError):
        return (
            f'The 1-bit runtime is installed but cannot be loaded ({_reason}). '
            'Install the library that is missing, or a compiler like the one of '
            'this machine'
        )
    others = sorted(path.name for path in Path(__file__).parent.glob('_native.*'))
    if others:
        return (
            f'The 1-bit runtime was built for another Python ({", ".join(others)}), '
            f'not for {sys.implementation.cache_tag}. Install a C++17 compiler and '
            'CMake'
        )
    return (
        f'The 1-bit runtime was not built when mmirnet was installed ({_reason}). '
        'Install a C++17 compiler and CMake'
    )


def instruction_sets() -> list[str]:
    """Returns the instruction sets of this CPU for ``MMIRNET_ISA``, best first."""
    return _loaded().instruction_sets()


def _library() -> str:
    """Returns the path of oneDNN beside the runtime, or '' for plain loops."""
    # An editable install keeps what was built apart from this file.
    found = sorted(Path(_loaded().__file__).parent.glob('libdnnl.*'))
    return str(found[0]) if found else ''


def default_threads() -> int:
    """Returns the default number of threads.

    It is one in a worker process of a data loader or a pool. Otherwise it is the number
    of cores that this process may use, by its affinity and by the CPU quota of its
    control group, by which containers limit a process.

    Returns:
        int: The number, at least 1.
    """
    torch_data = sys.modules.get('torch.utils.data')
    if torch_data is not None and torch_data.get_worker_info() is not None:
        return 1
    multiprocessing = sys.modules.get('multiprocessing')
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return 1
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota(), MAX_THREADS))


def _quota(root: Path = Path('/')) -> float:
    """Returns the cores that the control groups of this process allow, rounded up."""
    try:
        groups = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:
        return inf
    least = inf
    for group in groups:
        _, controllers, path = group.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        folder = root / 'sys/fs/cgroup' / ('cpu' if controllers else '')
        # In a container the path may be the host's, and the group the mount itself.
        places = [folder / path.lstrip('/'), *(folder / path.lstrip('/')).parents]
        for place in places[: len(places) - len(folder.parents)]:
            least = min(least, _quota_of(place, version=1 if controllers else 2))
    return least


def _quota_of(folder: Path, version: int) -> float:
    """Returns the cores that one control group allows; inf without a limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if version == 1:
            quota = (folder / 'cpu.cfs_quota_us').read_text()
            period = (folder / 'cpu.cfs_period_us').read_text()
        else:
            quota, period = (folder / 'cpu.max').read_text().split()
        if quota != 'max' and int(quota) > 0:
            return ceil(int(quota) / int(period))
    return inf


def _choose_isa(isa: str | None) -> str:
    name = 'isa' if isa is not None else 'MMIRNET_ISA'
    isa = isa if isa is not None else os.environ.get('MMIRNET_ISA') or ''
    known = _loaded().instruction_sets()
    if isa not in known and (isa or name == 'isa'):
        raise ConfigError(
            f'{name}: {isa!r} is not one of {", ".join(known)}, which this CPU has'
        )
    return isa


def _choose_threads(threads: int | None) -> int:
    if threads is None:
        return default_threads()
    whole = hasattr(threads, '__index__') and not isinstance(threads, bool)
    if not (whole and 1 <= threads <= MAX_THREADS):
        raise ConfigError(
            f'threads must be a whole number from 1 to {MAX_THREADS}, or None for '
            f'all cores, not {threads!r}'
        )
    return int(threads)


class Session:
    """A packed network, ready to predict.

    Several threads may predict at the same time: each call has its own memory and
    releases the interpreter lock. For many clients with single images, ``threads=1`` is
    best. A session can be copied and pickled, and works in a forked child. Defaults of
    ``threads`` and ``isa`` are then determined anew.

    Args:
        packed (Packed): A checked network.
        threads (int, optional): Threads of one call, 1 to 1024, or fewer if the system
            provides no more. Defaults to :func:`default_threads`.
        isa (str, optional): Instruction set. Defaults to ``MMIRNET_ISA``, or else the
            best one.

    Raises:
        ImportError: If the runtime was not built or cannot be loaded.
        ValueError: If the CPU does not have the instruction set, or if ``threads`` is
            out of range.
    """

    def __init__(
        self, packed: Packed, threads: int | None = None, isa: str | None = None
    ):
        native = _loaded()
        if not isinstance(packed, Packed):
            raise ConfigError(
                f'Session takes what mmirnet.packed.read gives, not {packed!r}; '
                'mmirnet.runtime.load takes a file'
            )
        self._options = threads, isa
        self.packed = dataclasses.replace(packed)
        self.input = packed.input
        self.classes = packed.classes
        steps, logits = plan.fuse(packed)
        buffers, size = plan.buffers(packed, steps, logits)
        self._network = native.Network(
            _choose_isa(isa), _library(), _choose_threads(threads), size
        )
        if problem := native.float_library_problem():
            warnings.warn(
                'The float layers run in plain loops, which are slow, for want of '
                f'oneDNN: {problem}. Install mmirnet again.',
                RuntimeWarning,
                stacklevel=2,
            )
        #: Numbers of the native tensors, by value and kind.
        self._tensors: dict[tuple[str, str], int] = {}
        for buffer in buffers:
            self._add_buffer(buffer)
        self._network.set_input(
            *(self._tensors.get(('input', kind), -1) for kind in ('image', 'pixels')),
            np.array(packed.input['mean'], np.float32),
            np.array(packed.input['std'], np.float32),
        )
        for step in steps:
            self._add_step(step, packed)
        self._network.set_output(self._tensors[logits, 'floats'])

    def __reduce__(self):
        return Session, (self.packed, *self._options)

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._network.isa

    @property
    def threads(self) -> int:
        """The number of threads of one call."""
        return self._network.threads

    def _add_buffer(self, buffer: plan.Buffer) -> None:
        channels, height, width = buffer.shape
        if buffer.kind == 'rows':
            rows = self._network.add_rows(height, width, channels)
            self._tensors[buffer.value, 'floats'] = rows
            return
        kinds = _native.Kind
        kind = dict(
            image=kinds.IMAGE, pixels=kinds.BYTES, floats=kinds.FLOATS, bits=kinds.BITS
        )[buffer.kind]
        self._tensors[buffer.value, buffer.kind] = self._network.add_tensor(
            kind, height, width, channels, buffer.pad, buffer.offset
        )

    def _source(self, step: plan.Step) -> int:
        kind = 'bits' if step.kind == 'binary_conv' else 'floats'
        return self._tensors[step.source, plan.image_kind(step) or kind]

    def _add_step(self, step: plan.Step, packed: Packed) -> None:
        kind = {'image': 'map', 'pixel_conv': 'byte_conv'}.get(step.kind, step.kind)
        arguments = [self._source(step)]
        if step.window is not None:
            arguments.append(_native.Window(*step.window[:4]))
        arguments += step.arguments
        if kind == 'binary_conv':
            # The kernels start a word with each position.
            signs = pack_bits(packed.signs(step.operation))
            arguments.append(np.ascontiguousarray(signs))
        elif kind == 'byte_conv':
            arguments += _byte_weights(step, packed)
        elif kind == 'conv':
            arguments += [step.window.groups, _weight(step, packed)]
        if step.fuses:
            arguments.append(self._epilogue(step, packed))
            arguments += plan.terms(step, packed)
        else:
            arguments.append(self._tensors[step.output, 'floats'])
        getattr(self._network, f'add_{kind}')(*arguments)

    def _epilogue(self, step: plan.Step, packed: Packed):
        return _native.EpilogueSpec(
            *plan.affine(step, packed),
            *(step.clamp or (-inf, inf)),
            residual=self._tensors.get((step.residual, 'floats'), -1),
            out=self._tensors.get((step.output, 'floats'), -1),
            bits=self._tensors.get((step.output, 'bits'), -1),
            scale=plan.scale(step, packed),
            activation=plan.activation(step),
            threshold=step.threshold,
        )

    def predict(self, images) -> np.ndarray:
        """Computes the logits of a batch.

        Args:
            images: A numpy array, a torch tensor, or a list of either or of PIL images.
                uint8 of shape (N, H, W, C), RGB or grey, also for a network of BGR
                images, which the runtime reverses; grey images may be (N, H, W). Or
                floats of shape (N, C, H, W), already normalised, in the network's order
                of channels.

        Returns:
            np.ndarray: float32 of shape (N, classes). The logits of an image depend
            neither on the rest of the batch nor on the number of threads.

        Raises:
            ValueError: If the images have another shape.
            TypeError: If they are neither uint8 nor floating point.
            NonFiniteError: If an image has NaN or infinity, or if a value becomes NaN
                in the network. The simulation in torch then returns NaN, but bits
                cannot represent it.

        Example:
            >>> from mmirnet.packed import pack
            >>> from torch import nn
            >>> net = nn.Sequential(
            ...     nn.Conv2d(3, 8, 3, bias=False),
            ...     nn.AdaptiveAvgPool2d(1),
            ...     nn.Flatten(),
            ...     nn.Linear(8, 2),
            ... )
            >>> session = Session(pack(net, (8, 8)), threads=1)
            >>> session.predict(np.zeros((5, 8, 8, 3), np.uint8)).shape
            (5, 2)
        """
        images = _array(images)
        dtype, spec = images.dtype, self.input
        pixels = dtype == _UINT8
        size = spec['channels'], spec['height'], spec['width']
        if pixels:
            wanted = (*size[1:], size[0])
        elif np.issubdtype(dtype, np.floating):
            wanted = size
        else:
            raise TypeError(f'images must be uint8 or float, not {dtype}')
        grey = pixels and size[0] == 1
        if grey and images.ndim == 3 and images.shape[1:] == size[1:]:
            images = images[..., None]  # as Pillow and OpenCV give them
        if images.shape[1:] != wanted:
            raise ConfigError(
                f'{dtype} images must have shape (N, '
                f'{", ".join(map(str, wanted))}), not {images.shape}'
                + ('; one image is images[None]' if images.shape == wanted else '')
            )
        if pixels and spec['order'] == 'bgr':
            images = images[..., ::-1]
        if not pixels and dtype != _FLOAT32:
            with np.errstate(over='ignore'):  # reported below
                images = images.astype(np.float32)
        logits = np.empty((len(images), self._network.classes), np.float32)
        if not self._network.predict(np.ascontiguousarray(images), logits):
            raise NonFiniteError(_not_finite(images, logits))
        return logits


def _array(images) -> np.ndarray:
    torch = sys.modules.get('torch')
    if torch is not None and isinstance(images, torch.Tensor):
        images = images.detach().cpu()
        # numpy has no bfloat16.
        return (images.float() if images.is_floating_point() else images).numpy()
    if not isinstance(images, list | tuple):
        return np.asarray(images)
    if not images:
        raise ConfigError('images must be one or more, not [], an empty list')
    arrays = [_array(image) for image in images]
    kinds = sorted({f'{array.dtype} {array.shape}' for array in arrays})
    if len(kinds) > 1:  # uint8 made floats would pass for normalised
        raise ConfigError(
            f'images must have one type and shape, not {" and ".join(kinds)}'
        )
    return np.stack(arrays)


def _not_finite(images: np.ndarray, logits: np.ndarray) -> str:
    """Describes which image is not finite and where, or which one overflowed."""
    wrong = np.argwhere(~np.isfinite(images))
    if len(wrong):
        image, channel, row, column = wrong[0]
        others = len(np.unique(wrong[:, 0])) - 1
        return (
            f'image {image} holds {images[tuple(wrong[0])]} at channel {channel}, row '
            f'{row}, column {column}'
            + (f'; so do {others} more images of {len(images)}' if others else '')
        )
    image = np.flatnonzero(~np.isfinite(logits).all(1))[0]
    return (
        f'image {image} is finite, up to {np.abs(images[image]).max():.3g}, but its '
        'values in the network overflow; are the images normalised as for training?'
    )


def _weight(step: plan.Step, packed: Packed) -> np.ndarray:
    """Returns the weight of a float convolution, (out, height, width, in)."""
    return _filters(step, packed.arrays(step.operation)['weight'])


def _filters(step: plan.Step, weight: np.ndarray) -> np.ndarray:
    weight = weight.reshape(len(weight), -1, *step.window.kernel)
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))


def _byte_weights(step: plan.Step, packed: Packed) -> list[np.ndarray]:
    """Returns weights, scales, the addend, and its classes of rows and columns."""
    arrays = packed.arrays(step.operation)
    scale = arrays['scale']
    if step.kind == 'pixel_conv':
        both = classes(packed.shapes['input'], step.window)
        rest, of = arrays['table'], [found.of for found in both]
    else:
        rest = arrays.get('bias', np.zeros_like(scale))
        of = [[0] * side for side in step.shape[1:]]
    weight = _filters(step, arrays['weight_int8'])
    of = [np.array(found, np.int32) for found in of]
    return [weight, scale, np.ascontiguousarray(rest), *of]


def load(
    path: str | os.PathLike, threads: int | None = None, isa: str | None = None
) -> Session:
    """Loads a packed file into the 1-bit runtime.

    Args:
        path (str | os.PathLike): A file written by ``tools/deploy/pack.py``.
        threads (int, optional): See :class:`Session`.
        isa (str, optional): See :class:`Session`.

    Returns:
        Session: The session.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
        ImportError: If the runtime was not built.
    """
    return Session(read(path), threads, isa)
