"""How a window moves over an image: what convolutions and poolings share."""

from typing import Any, NamedTuple

from ..fields import integer, need
from ..limits import MAX_CHANNELS, MAX_SIDE, MAX_STRIDE


class Geometry(NamedTuple):
    """How a window moves over an image; pairs are vertical and horizontal."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def square(self) -> bool:
        """Whether both sides are alike, without dilation and groups."""
        alike = all(len(set(sides)) == 1 for sides in self[:3])
        return alike and self.dilation == (1, 1) and self.groups == 1

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns from the first to the last pixel of a window."""
        height, width = (
            d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)
        )
        return height, width


def geometry(
    fields: dict, kernel: tuple[int, int] | None = None, most: int = MAX_SIDE
) -> Geometry:
    """Reads the window of a convolution or a pooling from its fields.

    Args:
        fields (dict): The operation's entry in the graph.
        kernel (tuple[int, int], optional): Height and width of the window. Defaults to
            the field ``kernel``.
        most (int): Largest allowed side of the kernel.

    Returns:
        Geometry: The window.

    Raises:
        Reject: If a field is missing or out of range.
    """

    def sides(name: str, count: int, low: int, high: int) -> tuple:
        value = fields.get(name)
        if type(value) is not list:
            return (integer(fields, name, low, high),) * count
        need(
            len(value) == count
            and all(type(v) is int and low <= v <= high for v in value),
            f'{name} must be {count} integers in [{low}, {high}], not {value!r}',
        )
        return tuple(value)

    kernel = kernel or sides('kernel', 2, 1, most)
    dilation = sides('dilation', 2, 1, 64) if 'dilation' in fields else (1, 1)
    groups = fields.get('groups', 1)
    if 'groups' in fields:
        groups = integer(fields, 'groups', 1, MAX_CHANNELS)
    window = Geometry(kernel, dilation=dilation, groups=groups)
    height, width = window.extent
    if type(fields.get('padding')) is list:
        padding = sides('padding', 4, 0, max(height, width) - 1)
        need(
            max(padding[::2]) < height and max(padding[1::2]) < width,
            f'padding {list(padding)} is as large as the window',
        )
    else:
        padding = sides('padding', 4, 0, min(height, width) - 1)
    return window._replace(stride=sides('stride', 2, 1, MAX_STRIDE), padding=padding)


def output_size(shape: tuple[int, int, int], window: Geometry) -> tuple[int, int]:
    """Computes height and width of the output of a window.

    Args:
        shape (tuple[int, int, int]): (channels, height, width) of the input.
        window (Geometry): The window.

    Returns:
        tuple[int, int]: Height and width.

    Raises:
        Reject: If the window is larger than the padded image.
    """
    top, left, bottom, right = window.padding
    height, width = shape[1] + top + bottom, shape[2] + left + right
    rows, columns = window.extent
    need(
        height >= rows and width >= columns,
        f'window {rows}x{columns} larger than the image',
    )
    return (
        (height - rows) // window.stride[0] + 1,
        (width - columns) // window.stride[1] + 1,
    )


class Classes(NamedTuple):
    """Outputs along one side, grouped by the part of the window inside the image.

    Attributes:
        of (list[int]): The class of each output.
        parts (list[tuple[int, int]]): For each class, the first tap inside the image
            and the first one after it.
    """

    of: list[int]
    parts: list[tuple[int, int]]


def classes(shape: tuple[int, int, int], window: Geometry) -> tuple[Classes, Classes]:
    """Groups output rows and output columns by the taps inside the image.

    Args:
        shape (tuple[int, int, int]): (channels, height, width) of the input.
        window (Geometry): A window without dilation.

    Returns:
        tuple[Classes, Classes]: Classes of the rows and of the columns, each in order
        of their first output.
    """
    found = []
    for side, outputs in enumerate(output_size(shape, window)):
        parts: dict[tuple[int, int], int] = {}
        of = []
        for i in range(outputs):
            start = i * window.stride[side] - window.padding[side]
            inside = max(0, -start), min(window.kernel[side], shape[1 + side] - start)
            of.append(parts.setdefault(inside, len(parts)))
        found.append(Classes(of, list(parts)))
    return found[0], found[1]


def pooled_shape(
    fields: dict, shape: tuple[int, int, int], most: int = MAX_SIDE
) -> tuple[int, int, int]:
    """Computes the shape of the output of a pooling.

    Args:
        fields (dict): The operation's entry in the graph.
        shape (tuple[int, int, int]): (channels, height, width) of the input.
        most (int): Largest allowed side of the kernel.

    Returns:
        tuple[int, int, int]: (channels, height, width).

    Raises:
        Reject: If a field is invalid, or if a window has no pixel of the image.
    """
    window = geometry(fields, most=most)
    size = output_size(shape, window)
    for side in range(2):
        start = (size[side] - 1) * window.stride[side] - window.padding[side]
        need(start < shape[1 + side], 'a window lies in the padding alone')
    return (shape[0], *size)


def pad_image(x: Any, window: Geometry, value: float = 0) -> tuple[Any, tuple]:
    """Pads an image in torch if its sides have different padding.

    Args:
        x (Tensor): (N, C, H, W).
        window (Geometry): The window.
        value (float): Value of the padding.

    Returns:
        tuple[Tensor, tuple[int, int]]: The image, and the padding that torch's own
        function still has to add.
    """
    import torch.nn.functional as F

    top, left, bottom, right = window.padding
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def onnx_attributes(window: Geometry) -> dict[str, list[int]]:
    """Returns the attributes of an ONNX node that moves a window."""
    return dict(
        kernel_shape=list(window.kernel),
        strides=list(window.stride),
        pads=list(window.padding),
    )
