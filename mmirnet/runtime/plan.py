"""Fuses the graph of a packed file to steps of the runtime, and places its values.

The graph has one entry per layer, and the runtime runs *steps*. A step computes a
convolution, a pooling or nothing (a map), and in the same pass the operations that
follow in the graph: BatchNorm as one affine per channel, an addition, an activation
(PReLU between two shifts), a clamp (Hardtanh or ReLU) and, if a binary convolution
follows, the packed signs.

A value is stored as floats, as bits, or as both, depending on the steps that read it.
If two binary convolutions have different thresholds for the same value, an additional
step makes the bits of the second. If only a max pooling reads the output of a
convolution of bytes, the output is never stored as a whole: the pooling requests its
rows one by one.

Float convolutions and linear layers read the image in the layout of the caller. For
other steps, the step ``image`` first converts it to the layout of the other values. A
convolution of pixels reads the image's bytes, and one of 8-bit integers converts its
input to bytes. The kernels on bits support square windows with equal strides and
paddings. A binary convolution with another geometry becomes a float one on signs, with
the same exact sums.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..packed.format import Packed
from ..packed.limits import MAX_BINARY_KERNEL
from ..packed.ops.lowering import (
    Affine,
    Alias,
    ByteProduct,
    Clamp,
    Kernel,
    Lowered,
    Product,
    Slopes,
    Sum,
)
from ..packed.ops.windows import Geometry

# The layout of tensors in memory. csrc/limits.h has the same numbers; a test compares
# them. Tensors start at multiples of this many bytes.
ALIGNMENT = 64
# The kernels copy up to a register beyond a tensor's end.
GAP = 256
# Float pixels are padded to a multiple of this many lanes.
FLOAT_LANES = 16
# Channels in a word of bits.
WORD = 64

#: Steps that compute with 8-bit integers.
BYTE_KINDS = 'byte_conv', 'pixel_conv'


@dataclass
class Step:
    """One fused operation.

    `output` = clamp(activation(affine(scale * op(`source`)) + residual)), with an
    activation of a shift `before`, `slopes`, and a shift `after`.
    """

    kind: str  # 'image', 'pixel_conv', or what the native Network has as add_KIND
    source: str
    output: str
    shape: tuple[int, int, int]  # of the output
    window: Geometry | None = None
    operation: dict[str, Any] = field(default_factory=dict)  # that has the weights
    arguments: tuple = ()  # of the kernel
    fuses: bool = True  # whether its pass can go on with what follows
    affine: Affine | None = None
    residual: str | None = None
    before: np.ndarray | None = None
    slopes: Slopes | None = None
    after: np.ndarray | None = None
    clamp: tuple[float, float] | None = None
    floats: bool = False
    bits: bool = False
    by_rows: bool = False  # floats that are never whole
    threshold: np.ndarray | None = None  # of the bits; None for 0

    def reads(self) -> list[str]:
        """Returns the names of the values that this step reads."""
        return [self.source] + ([self.residual] if self.residual else [])

    @property
    def activates(self) -> bool:
        """Whether it has any part of an activation."""
        parts = self.before, self.slopes, self.after
        return any(part is not None for part in parts)


@dataclass
class Buffer:
    """The memory of a value, from the step that makes it to the last that reads it."""

    value: str
    shape: tuple[int, int, int]
    kind: str  # 'image', 'pixels', 'floats', 'bits' or 'rows'
    pad: int
    size: int
    first: int
    last: int
    offset: int = -1


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Fusion:
    """Collects the steps, to which the operations of a graph are added in order."""

    def __init__(self, packed: Packed):
        self.packed = packed
        self.readers = Counter(name for op in packed.graph for name in op['src'])
        self.steps: list[Step] = []
        self.made_by: dict[str, int] = {}  # value -> index of its step
        self.alias: dict[str, str] = {'input': 'input'}
        self.signs: dict[tuple, str] = {}  # what `derived` made

    def take(self, op: dict[str, Any], lowered: Lowered) -> None:
        """Adds an operation to the step before it, or as a step of its own."""
        output = op['dst']
        sources = [self.alias[name] for name in op['src']]
        source = sources[0]
        self.alias[output] = output
        match lowered:
            case Alias():
                # The linear layer knows how features are ordered.
                self.alias[output] = source
                self.readers[source] += self.readers[output] - 1
            case Affine():
                step = self.open_step(source) or self.new_map(source, output)
                if not self.take_affine(step, lowered):
                    step = self.new_map(source, output)
                    step.affine = lowered
                self.extend(step, output)
            case Slopes():
                step = self.open_step(source)
                if step is None or step.slopes:
                    step = self.new_map(source, output)
                step.slopes = lowered
                self.extend(step, output)
            case Clamp(low, high):
                step = self.open_step(source) or self.new_map(source, output)
                step.clamp = low, high
                self.extend(step, output)
            case Sum():
                self.add(sources, output)
            case Product(window):
                kind, source = self.operand(source, lowered)
                shape = self.packed.shapes[output]
                self.append(Step(kind, source, output, shape, window, op))
            case ByteProduct(window, scale, zero_point, pixels):
                kind = 'pixel_conv' if pixels else 'byte_conv'
                shape = self.packed.shapes[output]
                step = Step(kind, source, output, shape, window, op)
                step.arguments = scale, zero_point
                self.append(step)
            case Kernel(name, window, arguments, fuses):
                shape = self.packed.shapes[output]
                step = Step(name, source, output, shape, window)
                step.arguments, step.fuses = arguments, fuses
                self.append(step)

    def add(self, sources: list[str], output: str) -> None:
        """Adds a sum to the step of one operand, preferably of the later one."""
        late, early = sorted(sources, key=lambda v: -self.made_by.get(v, -1))
        if not self.adding_step(late) and self.adding_step(early):
            self.postpone(early)
            late, early = early, late
        step = self.adding_step(late) or self.new_map(late, output)
        step.residual = early
        self.extend(step, output)

    def adding_step(self, name: str) -> Step | None:
        """Returns the step that makes a value, if it can add another value to it."""
        step = self.open_step(name)
        return None if step is None or step.residual or step.activates else step

    def postpone(self, name: str) -> None:
        """Moves the step of a value that no step has read yet to the end."""
        index, last = self.made_by[name], len(self.steps) - 1
        self.steps.append(self.steps.pop(index))
        for value, place in self.made_by.items():
            if place >= index:
                self.made_by[value] = last if place == index else place - 1

    def open_step(self, name: str) -> Step | None:
        """Returns the step of a value with one reader, if more can be fused into it."""
        step = self.steps[self.made_by[name]] if name in self.made_by else None
        if step and self.readers[name] == 1 and step.fuses and step.kind != 'image':
            return step if step.clamp is None else None
        return None

    def take_affine(self, step: Step, affine: Affine) -> bool:
        """Fuses an affine into a step; returns whether the step has a place for it."""
        if not (step.affine or step.residual or step.activates or self.has_bias(step)):
            step.affine = affine
        elif (affine.slope != 1).any():
            return False
        elif step.slopes is None and step.before is None:
            step.before = affine.offset
        elif step.slopes is not None and step.after is None:
            step.after = affine.offset
        else:
            return False
        return True

    def has_bias(self, step: Step) -> bool:
        """Whether a step adds a bias, which rounds before a BatchNorm would."""
        return 'bias' in _tensors(step, self.packed)

    def extend(self, step: Step, output: str) -> None:
        self.made_by[output] = self.made_by[step.output]
        step.output = output

    def append(self, step: Step) -> None:
        self.made_by[step.output] = len(self.steps)
        self.steps.append(step)

    def new_map(self, source: str, output: str) -> Step:
        self.append(Step('map', source, output, self.packed.shapes[output]))
        return self.steps[-1]

    def derived(self, kind: str, source: str, threshold: np.ndarray | None) -> str:
        """Adds a step for the signs of a value: 'map' for bits, 'sign' for floats."""
        form = kind, source, _key(threshold)
        if form in self.signs:
            return self.signs[form]
        name = f'{"bits" if kind == "map" else "sign"} of {source}'
        while name in self.packed.shapes or name in self.made_by:
            name += "'"
        step = Step(kind, source, name, self.packed.shapes[source])
        step.threshold, step.fuses = threshold, kind == 'map'
        if kind == 'sign':
            step.arguments = (threshold,)
        self.signs[form] = name
        self.append(step)
        return name

    def operand(self, source: str, product: Product) -> tuple[str, str]:
        """Returns the kind of step for a convolution, and the value that it reads."""
        window = product.window
        if not product.binarize:
            return 'conv', source
        if not window.square or window.kernel[0] > MAX_BINARY_KERNEL:
            return 'conv', self.derived('sign', source, product.threshold)
        step = self.steps[self.made_by[source]]
        taken = step.bits and _key(step.threshold) != _key(product.threshold)
        if taken or not step.fuses:
            return 'binary_conv', self.derived('map', source, product.threshold)
        step.bits, step.threshold = True, product.threshold
        return 'binary_conv', source


def _key(threshold: np.ndarray | None) -> bytes | None:
    """Returns a key that is equal for equal thresholds."""
    return None if threshold is None else threshold.tobytes()


def fuse(packed: Packed) -> tuple[list[Step], str]:
    """Groups the graph into steps; also returns the name of the logits."""
    fusion = _Fusion(packed)
    lowered = [packed.lower(op) for op in packed.graph]
    if _reads_image(packed, lowered):
        fusion.append(Step('image', 'input', 'input', packed.shapes['input']))
    for op, what in zip(packed.graph, lowered, strict=True):
        fusion.take(op, what)
    logits = fusion.alias[packed.graph[-1]['dst']]
    _choose_forms(fusion.steps, logits)
    _choose_rows(fusion.steps, logits)
    return fusion.steps, logits


def _reads_image(packed: Packed, lowered: list[Lowered]) -> bool:
    """Whether the image is needed in the layout of the other values."""
    names = {'input'}
    for op, what in zip(packed.graph, lowered, strict=True):
        if names.intersection(op['src']):
            if isinstance(what, Alias):
                names.add(op['dst'])
            elif not _as_it_comes(what):
                return True
    return packed.graph[-1]['dst'] in names


def _as_it_comes(what: Lowered) -> bool:
    """Whether an operation reads an image in the layout in which it comes."""
    if isinstance(what, Product):
        return not what.binarize
    return isinstance(what, ByteProduct) and what.pixels


def _choose_forms(steps: list[Step], logits: str) -> None:
    made_by = {step.output: step for step in steps}
    for step in steps:
        if step.source in made_by and step.kind != 'image':
            if step.kind == 'binary_conv':
                made_by[step.source].bits = True
            else:
                made_by[step.source].floats = True
        if step.residual:
            made_by[step.residual].floats = True
    made_by[logits].floats = True
    for step in steps:
        # What cannot pack in its own pass, or is never read, stays in floats.
        step.floats |= not step.bits


def _choose_rows(steps: list[Step], logits: str) -> None:
    readers = Counter(name for step in steps for name in step.reads())
    readers[logits] += 1
    for step, pooling in pairwise(steps):
        reads_alone = pooling.source == step.output and readers[step.output] == 1
        can_make = step.kind in BYTE_KINDS and not (step.bits or step.residual)
        step.by_rows = reads_alone and can_make and _reads_all_rows(pooling)


def _reads_all_rows(step: Step) -> bool:
    """Whether a step is a max pooling whose windows leave out no rows between them."""
    window = step.window
    return step.kind == 'max_pool' and window.stride[0] <= window.kernel[0]


def buffers(packed: Packed, steps: list[Step], logits: str) -> tuple[list[Buffer], int]:
    """Places every value in memory; values that are not needed together share it.

    Args:
        packed (Packed): The network.
        steps (list[Step]): Output of :func:`fuse`.
        logits (str): Output of :func:`fuse`.

    Returns:
        tuple[list[Buffer], int]: The buffers, and their total size in bytes.
    """
    last, pad = {}, {}
    for index, step in enumerate(steps):
        for name in step.reads():
            last[name] = index + step.by_rows  # the next step has it computed
        if step.kind == 'binary_conv':
            padding = step.window.padding[0]
            pad[step.source] = max(pad.get(step.source, 0), padding)
    last[logits] = len(steps)

    def buffer(value: str, shape: tuple, kind: str, first: int) -> Buffer:
        if kind == 'rows':
            return Buffer(value, shape, kind, 0, 0, first, first)
        padding = pad.get(value, 0) if kind == 'bits' else 0
        size = _aligned(_bytes(shape, kind, padding) + GAP)
        return Buffer(value, shape, kind, padding, size, first, last.get(value, first))

    image = packed.shapes['input']
    kinds = {image_kind(step) for step in steps} - {None}
    result = [buffer('input', image, kind, -1) for kind in sorted(kinds)]
    for index, step in enumerate(steps):
        if step.floats:
            kind = 'rows' if step.by_rows else 'floats'
            result.append(buffer(step.output, step.shape, kind, index))
        if step.bits:
            result.append(buffer(step.output, step.shape, 'bits', index))
    return result, _place(result, steps)


def _bytes(shape: tuple[int, int, int], kind: str, padding: int) -> int:
    """Bytes of a value in one of its forms; bits have padding on both sides."""
    channels, height, width = shape
    if kind == 'bits':
        return 8 * height * (width + 2 * padding) * -(-channels // WORD)
    if kind == 'pixels':
        return height * width * channels
    if kind == 'image':
        return 4 * height * width * channels
    return 4 * height * width * -(-channels // FLOAT_LANES) * FLOAT_LANES


def image_kind(step: Step) -> str | None:
    """Returns the form in which a step reads the caller's image, or None."""
    if step.source != 'input':
        return None
    return {'conv': 'image', 'image': 'image', 'pixel_conv': 'pixels'}.get(step.kind)


def _place(result: list[Buffer], steps: list[Step]) -> int:
    """Sets the offsets, first fit; returns the size of all buffers together.

    The output of a step replaces its residual if no later step reads that.
    """
    placed: list[Buffer] = []
    floats = {b.value: b for b in result if b.kind == 'floats'}
    for new in result:
        step = steps[new.first] if new.first >= 0 else None
        old = floats.get(step.residual) if step and new.kind == 'floats' else None
        if old and old.last == new.first and _reads_in_place(steps, new.first):
            new.offset = old.offset
        else:
            alive = [b for b in placed if b.last >= new.first]
            new.offset = _first_gap(alive, new.size)
        placed.append(new)
    return max(b.offset + b.size for b in result)


def _first_gap(alive: list[Buffer], size: int) -> int:
    """Returns the lowest offset with this many free bytes."""
    offset = 0
    for other in sorted(alive, key=lambda b: b.offset):
        if other.offset - offset >= size:
            break
        offset = max(offset, other.offset + other.size)
    return offset


def _reads_in_place(steps: list[Step], index: int) -> bool:
    """Whether a step can overwrite its residual while it reads it."""
    step = steps[index]
    # Bits of the same value are another buffer.
    sources = set() if step.kind == 'binary_conv' else {step.source}
    if index and steps[index - 1].by_rows:  # is computed in the same pass
        sources.update(steps[index - 1].reads())
    return step.residual not in sources


def scale(step: Step, packed: Packed) -> np.ndarray | None:
    """Returns the factor of the sums before the affine, (out,), or None."""
    tensors = _tensors(step, packed)
    if 'offset' in tensors and 'affine_input' not in tensors:
        return None  # it is in the weights
    return _slope_and_scale(step, tensors)[1]


def _slope_and_scale(
    step: Step, tensors: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the slope of the affine and the scale, which multiplies the sums first.

    Powers of two (``exponent``) are part of the slope, unless it would overflow or lose
    bits. In float convolutions they are part of the weights.
    """
    slope = np.ones(step.shape[0], np.float32)
    if step.affine is not None:
        slope = step.affine.slope
    if step.kind != 'binary_conv' or 'exponent' not in tensors:
        return slope, tensors.get('scale')
    powers = np.exp2(tensors['exponent'].astype(np.float32))
    with np.errstate(over='ignore', under='ignore'):
        product = slope * powers
    exact = np.isfinite(product).all() and (product / powers == slope).all()
    return (product, None) if exact else (slope, powers)


def terms(step: Step, packed: Packed) -> list[np.ndarray]:
    """Returns the further arguments of a binary convolution: offset, affine_input."""
    tensors = _tensors(step, packed)
    if 'affine_input' not in tensors:
        return []
    return [tensors['offset'], tensors['affine_input']]


def activation(step: Step) -> np.ndarray | None:
    """Returns the activation, (4, out), or None: shift, both slopes, shift."""
    if not step.activates:
        return None
    channels = step.shape[0]
    none = np.full(channels, -0.0, np.float32)  # what it is added to stays as it is
    one = np.ones(channels, np.float32)
    slopes = step.slopes or Slopes(one, one)
    before = none if step.before is None else step.before
    after = none if step.after is None else step.after
    return np.stack([before, slopes.negative, slopes.positive, after])


def _tensors(step: Step, packed: Packed) -> dict[str, np.ndarray]:
    """Returns the tensors for the epilogue; steps of bytes have none."""
    if not step.operation or step.kind in BYTE_KINDS:
        return {}
    return packed.operation_tensors(step.operation)


def affine(step: Step, packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Combines affine, bias and exponents to y = fma(x, alpha, beta).

    The scale of an exponent is a power of two, so alpha * scale is exact except at the
    limits of float32, and the sums are integers. The result is that of torch, bit for
    bit.

    Args:
        step (Step): The step.
        packed (Packed): The network.

    Returns:
        tuple[np.ndarray, np.ndarray]: alpha and beta, (out,). Both are empty if they
        would change nothing.
    """
    channels = step.shape[0]
    tensors = _tensors(step, packed)
    alpha, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if step.affine is not None:
        alpha, beta = step.affine.slope, step.affine.offset
    if 'bias' in tensors:
        beta = beta + alpha * tensors['bias']
    alpha, _ = _slope_and_scale(step, tensors)
    if (alpha == 1).all() and not beta.any():
        return np.empty(0, np.float32), np.empty(0, np.float32)
    return np.ascontiguousarray(alpha), np.ascontiguousarray(beta)
