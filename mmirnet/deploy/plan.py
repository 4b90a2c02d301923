"""From the graph of a packed file to the engine's fused operations.

The graph has one entry for each layer; the engine runs *steps*. A step
produces one value from a convolution, a pooling or nothing (a map), followed
in the same pass by what the graph has behind it: BatchNorm as one affine per
channel, an addition, a clamp (Hardtanh or ReLU) and, where the consumer is a
binary convolution, the packed signs. A value lives as floats, as bits, or as
both, whatever its consumers need.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from .format import Packed

_CLAMP = {'hardtanh': (-1.0, 1.0), 'relu': (0.0, inf)}
_FUSE_INTO = {'conv2d', 'binary_conv2d', 'linear', 'max_pool2d', 'map'}
# The kernels copy up to a register beyond a tensor's end.
_GAP = 256


@dataclass
class Step:
    """One fused operation: `output` = clamp(affine(op(`source`)) + residual)."""

    kind: str
    source: str
    output: str
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
    kind: str  # 'image', 'floats' or 'bits'
    pad: int
    size: int
    first: int
    last: int
    offset: int = -1


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


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

    for op in packed.graph:
        kind, output = op['op'], op['dst']
        sources = [alias[name] for name in op['src']]
        alias[output] = output
        if kind == 'flatten':
            # Only a name: the linear layer knows how features are ordered.
            alias[output] = sources[0]
            readers[sources[0]] += readers[output] - 1
        elif kind == 'affine':
            step = open_step(sources[0])
            if step is None or step.affine or step.residual:
                step = Step('map', sources[0], output)
                append(step)
            step.affine = op
            extend(step, output)
        elif kind in _CLAMP:
            step = open_step(sources[0])
            if step is None:
                step = Step('map', sources[0], output)
                append(step)
            step.clamp = _CLAMP[kind]
            extend(step, output)
        elif kind == 'add':
            # The operand computed last can take the other one as it is made.
            late, early = sorted(sources, key=lambda v: -made_by.get(v, -1))
            step = open_step(late) if late != early else None
            if step is None or step.residual:
                step = Step('map', late, output)
                append(step)
            step.residual = early
            extend(step, output)
        else:
            append(Step(kind, sources[0], output, op))
    logits = alias[packed.graph[-1]['dst']]
    _choose_forms(packed, steps, logits)
    return steps, logits


def _choose_forms(packed: Packed, steps: list[Step], logits: str) -> None:
    made_by = {step.output: step for step in steps}
    for step in steps:
        if step.source in made_by:
            if step.kind == 'binary_conv2d' and step.operation['binarize_input']:
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
        if step.kind == 'binary_conv2d' and step.operation['binarize_input']:
            padding = step.operation['padding']
            pad[step.source] = max(pad.get(step.source, 0), padding)
    last[logits] = len(steps)

    def buffer(value: str, kind: str, first: int) -> Buffer:
        channels, height, width = packed.shapes[value]
        padding = pad.get(value, 0) if kind == 'bits' else 0
        if kind == 'bits':
            size = 8 * height * (width + 2 * padding) * -(-channels // 64)
        else:
            lanes = channels if kind == 'image' else -(-channels // 16) * 16
            size = 4 * height * width * lanes
        return Buffer(
            value, kind, padding, _aligned(size + _GAP), first, last.get(value, first)
        )

    result = [buffer('input', 'image', -1)]
    for index, step in enumerate(steps):
        if step.floats:
            result.append(buffer(step.output, 'floats', index))
        if step.bits:
            result.append(buffer(step.output, 'bits', index))
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
    channels = packed.shapes[step.output][0]
    tensors = packed.operation_tensors(step.operation) if step.operation else {}
    alpha, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if step.affine is not None:
        alpha, beta = packed.operation_tensors(step.affine)['affine']
    if 'bias' in tensors:
        beta = beta + alpha * tensors['bias']
    if step.kind == 'binary_conv2d' and step.operation['binarize_input']:
        alpha = alpha * np.exp2(tensors['exponent'].astype(np.float32))
    if (alpha == 1).all() and not beta.any():
        return np.empty(0, np.float32), np.empty(0, np.float32)
    return np.ascontiguousarray(alpha), np.ascontiguousarray(beta)
