"""What the runtime does for an operation, as plain data.

:mod:`mmirnet.runtime.plan` fuses these parts into steps. They do not contain weights:
the runtime asks the operation for its ``arrays`` or ``signs`` when it loads a step.
"""

from dataclasses import dataclass

import numpy as np

from .windows import Geometry


@dataclass(frozen=True)
class Alias:
    """Nothing: the output is another name of the input."""


@dataclass(frozen=True)
class Affine:
    """y = slope * x + offset for each channel, with one rounding."""

    slope: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Clamp:
    """y = min(max(x, low), high)."""

    low: float
    high: float


@dataclass(frozen=True)
class Slopes:
    """y = positive * x where x >= 0, else negative * x, for each channel."""

    negative: np.ndarray
    positive: np.ndarray


@dataclass(frozen=True)
class Sum:
    """The sum of two values."""


@dataclass(frozen=True)
class Product:
    """A convolution, or a linear layer: a convolution whose window is the image.

    Attributes:
        window: Kernel, stride, padding, dilation and groups.
        binarize: Whether it reads the signs of its input.
        threshold: Value from which on a sign is +1, (channels,). None means 0.
    """

    window: Geometry
    binarize: bool = False
    threshold: np.ndarray | None = None


@dataclass(frozen=True)
class ByteProduct:
    """A convolution or linear layer of 8-bit integers, whose sums are exact.

    Its arrays are ``weight_int8``, ``scale`` and ``bias`` or ``table``.

    Attributes:
        window: Kernel, stride, padding and dilation.
        input_scale: Factor from the input to integers, see
            :mod:`mmirnet.packed.ops.int8`.
        zero_point: The byte that stands for 0.
        pixels: Whether it reads the image's pixels instead of the normalised image.
    """

    window: Geometry
    input_scale: float = 1.0
    zero_point: int = 0
    pixels: bool = False


@dataclass(frozen=True)
class Kernel:
    """A kernel of the runtime, ``Network.add_NAME``.

    Attributes:
        name: Name of the kernel.
        window: First argument, if the kernel takes a window.
        arguments: Further arguments.
        fuses: Whether an affine, a sum, a clamp and signs can be part of its pass.
    """

    name: str
    window: Geometry | None = None
    arguments: tuple = ()
    fuses: bool = False


Lowered = Alias | Affine | Clamp | Slopes | Sum | Product | ByteProduct | Kernel
