"""From the graph of a packed file to the runtime's fused operations.

The graph has one entry for each layer; the runtime runs *steps*. A step
produces one value from a convolution, a pooling or nothing (a map), followed
in the same pass by what the graph has behind it: BatchNorm as one affine per
channel, an addition, a clamp (Hardtanh or ReLU) and, where the consumer is a
binary convolution, the packed signs. A value lives as floats, as bits, or as
both, whatever its consumers need.

Float convolutions and linear layers read the image as it comes; for anything else it
is first brought into the layout of the other values. The kernels on bits know square
windows that move alike in both directions. A binary convolution of another geometry
becomes a float one, over signs that are floats: its sums are the same, and exact.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from ..packed.format import Geometry, Packed, geometry, slope_and_offset

_FUSE_INTO = {'conv2d', 'binary_conv2d', 'max_pool2d', 'map'}
_PACKS = _FUSE_INTO | {'image'}  # whose pass can end in signs
_WEIGHTED = {'conv2d', 'binary_conv2d', 'linear', 'binary_linear'}
# What the kernels on bits take.
_MAX_KERNEL = 31
# The kernels copy up to a register beyond a tensor's end.
_GAP = 256


@dataclass
class Step:
    """One fused operation: `output` = clamp(affine(op(`source`)) + residual)."""

    kind: str
    source: str
    output: str
    shape: tuple[int, int, int]  # of the output
    window: Geometry | None = None
    operation: dict[str, Any] = field(default_factory=dict)
    affine: dict[str, Any] | None = None
    residual: str | None = None
    clamp: tuple[float, float] | None = None
    floats: bool = False
    bits: bool = False

    def reads(self) -> list[str]:
        """The values this step needs."""
        return [self.source] + ([self.residual] if self.residual else [])


@dataclass
class Buffer:
    """Where a value lives in the arena, from its producer to its last reader."""

    value: str
    shape: tuple[int, int, int]
    kind: str  # 'image', 'floats' or 'bits'
    pad: int
    size: int
    first: int
    last: int
    offset: int = -1


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _clamp(op: dict[str, Any]) -> tuple[float, float] | None:
    """The limits of an activation."""
    if op['op'] == 'clamp':
        low, high = op['low'], op['high']
        return -inf if low is None else low, inf if high is None else high
    return {'hardtanh': (-1.0, 1.0), 'relu': (0.0, inf)}.get(op['op'])


def _window(op: dict[str, Any], packed: Packed) -> Geometry | None:
    """How the window of an operation moves; that of a linear layer is the image."""
    if op['op'] in ('linear', 'binary_linear', 'average_pool'):
        return Geometry(packed.shapes[op['src'][0]][1:])
    if op['op'] == 'conv2d':
        return geometry(op, packed.operation_tensors(op)['weight'].shape[2:])
    return geometry(op) if 'kernel' in op else None


def fuse(packed: Packed) -> tuple[list[Step], str]:
    """Groups the graph into steps; also says which value is the logits."""
    readers = Counter(name for op in packed.graph for name in op['src'])
    steps: list[Step] = []
    made_by: dict[str, int] = {}  # value -> index of its step
    alias: dict[str, str] = {'input': 'input'}

    def open_step(name: str) -> Step | None:
        """The step that made a value nobody else reads, if it can take more."""
        step = steps[made_by[name]] if name in made_by else None
        if step and readers[name] == 1 and step.kind in _FUSE_INTO:
            return step if step.clamp is None else None
        return None

    def extend(step: Step, output: str) -> None:
        made_by[output] = made_by[step.output]
        step.output = output

    def append(step: Step) -> None:
        made_by[step.output] = len(steps)
        steps.append(step)

    def new_map(source: str, output: str) -> Step:
        append(Step('map', source, output, packed.shapes[output]))
        return steps[-1]

    def derived(kind: str, source: str, name: str) -> str:
        """Another form of a value, for those that cannot read it as it is."""
        while name in packed.shapes:
            name += "'"
        if name not in made_by:
            append(Step(kind, source, name, packed.shapes[source]))
        return name

    def operand(op: dict[str, Any], source: str, window: Geometry) -> tuple[str, str]:
        """The step that computes a convolution, and what it reads."""
        if not op.get('binarize_input', False):
            return 'conv2d', source
        if not window.square or window.kernel[0] > _MAX_KERNEL:
            return 'conv2d', derived('sign', source, f'sign of {source}')
        if steps[made_by[source]].kind not in _PACKS:
            source = derived('map', source, f'bits of {source}')
        return 'binary_conv2d', source

    if _reads_image(packed):
        append(Step('image', 'input', 'input', packed.shapes['input']))
    for op in packed.graph:
        kind, output = op['op'], op['dst']
        sources = [alias[name] for name in op['src']]
        alias[output] = output
        clamp, shape = _clamp(op), packed.shapes[output]
        if kind == 'flatten' or (
            kind == 'vector' and shape == packed.shapes[sources[0]]
        ):
            # Only a name: the linear layer knows how features are ordered.
            alias[output] = sources[0]
            readers[sources[0]] += readers[output] - 1
        elif kind in ('affine', 'scale'):
            step = open_step(sources[0])
            if step is None or step.affine or step.residual or _has_bias(step, packed):
                step = new_map(sources[0], output)
            step.affine = op
            extend(step, output)
        elif clamp:
            step = open_step(sources[0]) or new_map(sources[0], output)
            step.clamp = clamp
            extend(step, output)
        elif kind == 'add':
            # The operand computed last can take the other one as it is made.
            late, early = sorted(sources, key=lambda v: -made_by.get(v, -1))
            step = open_step(late) if late != early else None
            if step is None or step.residual:
                step = new_map(late, output)
            step.residual = early
            extend(step, output)
        elif kind in _WEIGHTED:
            window = _window(op, packed)
            kind, source = operand(op, sources[0], window)
            append(Step(kind, source, output, shape, window, op))
        else:
            append(Step(kind, sources[0], output, shape, _window(op, packed), op))
    logits = alias[packed.graph[-1]['dst']]
    _choose_forms(steps, logits)
    return steps, logits


def _only_a_name(op: dict[str, Any], packed: Packed) -> bool:
    """Whether an operation moves nothing: channels follow the pixels either way."""
    same = packed.shapes[op['src'][0]] == packed.shapes[op['dst']]
    return op['op'] == 'flatten' or (op['op'] == 'vector' and same)


def _reads_image(packed: Packed) -> bool:
    """Whether the image is needed in the layout of the other values."""
    names = {'input'}
    for op in packed.graph:
        if names.intersection(op['src']):
            if _only_a_name(op, packed):
                names.add(op['dst'])
            elif op['op'] not in _WEIGHTED or op.get('binarize_input', False):
                return True
    return packed.graph[-1]['dst'] in names


def _has_bias(step: Step, packed: Packed) -> bool:
    """A bias rounds before a BatchNorm does: they are two passes."""
    return bool(step.operation) and 'bias' in packed.operation_tensors(step.operation)


def _choose_forms(steps: list[Step], logits: str) -> None:
    made_by = {step.output: step for step in steps}
    for step in steps:
        if step.source in made_by and step.kind != 'image':
            if step.kind == 'binary_conv2d':
                made_by[step.source].bits = True
            else:
                made_by[step.source].floats = True
        if step.residual:
            made_by[step.residual].floats = True
    made_by[logits].floats = True
    for step in steps:
        # What cannot pack in its own pass, or is never read, stays in floats.
        step.floats |= not step.bits


def buffers(packed: Packed, steps: list[Step], logits: str) -> tuple[list[Buffer], int]:
    """Gives every value its place; values share memory when not alive together.

    Returns:
        The buffers, and the bytes they need together.
    """
    last, pad = {}, {}
    for index, step in enumerate(steps):
        for name in step.reads():
            last[name] = index
        if step.kind == 'binary_conv2d':
            padding = step.window.padding[0]
            pad[step.source] = max(pad.get(step.source, 0), padding)
    last[logits] = len(steps)

    def buffer(value: str, shape: tuple, kind: str, first: int) -> Buffer:
        channels, height, width = shape
        padding = pad.get(value, 0) if kind == 'bits' else 0
        if kind == 'bits':
            size = 8 * height * (width + 2 * padding) * -(-channels // 64)
        else:
            lanes = channels if kind == 'image' else -(-channels // 16) * 16
            size = 4 * height * width * lanes
        end = last.get(value, first)
        return Buffer(value, shape, kind, padding, _aligned(size + _GAP), first, end)

    result = [buffer('input', packed.shapes['input'], 'image', -1)]
    for index, step in enumerate(steps):
        if step.floats:
            result.append(buffer(step.output, step.shape, 'floats', index))
        if step.bits:
            result.append(buffer(step.output, step.shape, 'bits', index))
    return result, _place(result, steps)


def _place(result: list[Buffer], steps: list[Step]) -> int:
    """First fit; a step's floats replace its residual where that ends."""
    placed: list[Buffer] = []
    floats = {b.value: b for b in result if b.kind == 'floats'}
    for new in result:
        step = steps[new.first] if new.first >= 0 else None
        old = floats.get(step.residual) if step and new.kind == 'floats' else None
        if old and old.last == new.first and step.source != step.residual:
            new.offset = old.offset
        else:
            alive = sorted(
                (b for b in placed if b.last >= new.first), key=lambda b: b.offset
            )
            new.offset = 0
            for other in alive:
                if other.offset - new.offset >= new.size:
                    break
                new.offset = max(new.offset, other.offset + other.size)
        placed.append(new)
    return max(b.offset + b.size for b in result)


def affine(step: Step, packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Affine, bias and scale as y = fma(x, alpha, beta); empty for none.

    The scale of a binary convolution is a power of two, so that alpha * scale
    is exact, and the sums are integers: the same bits come out as in torch.
    """
    channels = step.shape[0]
    tensors = packed.operation_tensors(step.operation) if step.operation else {}
    alpha, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if step.affine is not None:
        alpha, beta = slope_and_offset(packed, step.affine)
    if 'bias' in tensors:
        beta = beta + alpha * tensors['bias']
    if step.kind == 'binary_conv2d':
        alpha = alpha * np.exp2(tensors['exponent'].astype(np.float32))
    if (alpha == 1).all() and not beta.any():
        return np.empty(0, np.float32), np.empty(0, np.float32)
    return np.ascontiguousarray(alpha), np.ascontiguousarray(beta)
