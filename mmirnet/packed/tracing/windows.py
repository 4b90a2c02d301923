"""A window's sides: kernel, stride, padding and dilation."""

from typing import Any

from .calls import Call


def pair(call: Call, what: str, value: Any) -> tuple[int, int]:
    """One number or two of them; torch takes tuples, lists and tensors' sizes."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        call.refuse(f'{what} {value!r}')
    return int(sides[0]), int(sides[1])


def compact(sides: tuple) -> Any:
    """One number where all sides are alike."""
    return sides[0] if len(set(sides)) == 1 else list(sides)


def window(kernel, stride, padding, dilation=(1, 1), groups=1) -> dict:
    """The attributes of a window, numbers where both sides are alike."""
    attributes = dict(
        kernel=compact(kernel), stride=compact(stride), padding=compact(padding)
    )
    if set(dilation) != {1}:
        attributes['dilation'] = compact(dilation)
    if groups != 1:
        attributes['groups'] = groups
    return attributes
