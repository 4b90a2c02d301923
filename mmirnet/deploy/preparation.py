"""From the pixels of a file to those that a packed network takes, as data.

``input`` of a packed file says how an image file is read and prepared::

    {"order": "rgb",
     "read": {"library": "cv2", "upright": true, "float": false},
     "steps": [{"op": "resize_edge", "edge": "short", "size": 256,
                "interpolation": "bilinear", "library": "pillow"},
               {"op": "center_crop", "width": 224, "height": 224}]}

``order`` is that of the network's channels: ``rgb``, ``bgr``, ``grey``, or null for
a network that takes no image files. Steps see RGB or grey; :data:`STEPS` lists them.
Each does what a transform of MMCV or MMPretrain does, with the same calls, so that it
gives the same bits. :func:`mmirnet.deploy.pipelines.preparation` derives all of it
from a test pipeline. Needs numpy; OpenCV and Pillow where a step names them.
"""

from collections.abc import Callable
from typing import Any

ORDERS = {'rgb': 3, 'bgr': 3, 'grey': 1, None: None}
LIBRARIES = ('cv2', 'pillow')
_MAX_SIDE = 1 << 15
_MAX_FACTOR = 64.0
_INTERPOLATIONS = {
    'cv2': ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos'),
    'pillow': ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming'),
}
_MODES = ('constant', 'edge', 'reflect', 'symmetric')


def _integer(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return fits, f'an integer in [{low}, {high}]'


def _optional(rule: tuple[Callable[[Any], bool], str]):
    return lambda value: value is None or rule[0](value), f'{rule[1]} or null'


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: isinstance(value, str) and value in choices,
        f'one of {", ".join(choices)}',
    )


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (1, 3)
        and all(type(v) in (int, float) and 0 <= v <= 255 for v in value)
    )


_SIDE = _integer(1, _MAX_SIDE)
_BOOL = (lambda value: type(value) is bool), 'a bool'
_FACTOR = (
    (lambda value: type(value) is float and 0 < value <= _MAX_FACTOR),
    f'a number in (0, {_MAX_FACTOR:g}]',
)
_RESIZING = {
    'interpolation': _one_of(*{n for names in _INTERPOLATIONS.values() for n in names}),
    'library': _one_of(*LIBRARIES),
}
#: What each step needs to know.
STEPS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    # To a size, or with keep_ratio as large as fits into it, either way round.
    'resize': dict(width=_SIDE, height=_SIDE, keep_ratio=_BOOL, **_RESIZING),
    # By a factor for each side.
    'rescale': dict(x=_FACTOR, y=_FACTOR, keep_ratio=_BOOL, **_RESIZING),
    # One edge to a size, the other in proportion.
    'resize_edge': dict(
        edge=_one_of('short', 'long', 'width', 'height'), size=_SIDE, **_RESIZING
    ),
    # The centre, or what there is of it.
    'center_crop': dict(width=_SIDE, height=_SIDE),
    # The centre's share size / (size + padding) of the short edge, resized to size.
    'efficientnet_crop': dict(size=_SIDE, padding=_integer(0, _MAX_SIDE), **_RESIZING),
    # On the right and below, to a size, a multiple, or a square.
    'pad': dict(
        width=_optional(_SIDE),
        height=_optional(_SIDE),
        divisor=_optional(_SIDE),
        square=_BOOL,
        value=(_is_colour, 'a list of 1 or 3 numbers in [0, 255]'),
        mode=_one_of(*_MODES),
    ),
    # To a size whatever the image's: the rule where no pipeline says.
    'fit': dict(width=_SIDE, height=_SIDE, pad=_integer(0, 64)),
}
MAX_STEPS = 64


def default(channels: int, height: int, width: int) -> dict[str, Any]:
    """The preparation of a network of which nothing else is known.

    Images are taken as RGB or grey, and brought to size by the step ``fit``.

    Args:
        channels: Of the network; one of neither 1 nor 3 takes no image files.
        height: Of its images.
        width: Of its images.

    Example:
        >>> default(3, 24, 32)['steps']
        [{'op': 'fit', 'width': 32, 'height': 24, 'pad': 4}]
        >>> [default(channels, 24, 32)['order'] for channels in (3, 1, 7)]
        ['rgb', 'grey', None]
    """
    order = {3: 'rgb', 1: 'grey'}.get(channels)
    fit = {'op': 'fit', 'width': width, 'height': height, 'pad': 4}
    return {
        'order': order,
        'read': {'library': 'cv2', 'upright': True, 'float': False},
        'steps': [fit] if order else [],
    }


def check(spec: dict[str, Any], channels: int) -> str | None:
    """What is wrong with ``order``, ``read`` and ``steps`` of an input, if anything.

    Args:
        spec: Has these three fields; their values come from a file.
        channels: Of the network.

    Example:
        >>> spec = default(3, 24, 32)
        >>> check(spec, 3)
        >>> check(dict(spec, order='bgr'), 1)
        "order 'bgr' does not fit 1 channels"
    """
    order, reading, steps = spec['order'], spec['read'], spec['steps']
    if not (order is None or isinstance(order, str)) or order not in ORDERS:
        return f'order must be one of rgb, bgr, grey or null, not {order!r}'
    if ORDERS[order] not in (None, channels):
        return f'order {order!r} does not fit {channels} channels'
    wanted = {'library': _RESIZING['library'], 'upright': _BOOL, 'float': _BOOL}
    if why := _unfit(reading, wanted):
        return f'read: {why}'
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        return f'steps must be a list of at most {MAX_STEPS}'
    for index, step in enumerate(steps):
        if why := _unfit_step(step):
            return f'steps[{index}]: {why}'
    return None


def _unfit(values: Any, wanted: dict) -> str | None:
    if not isinstance(values, dict) or set(values) != set(wanted):
        return f'fields must be {sorted(wanted)}'
    for name, (fits, what) in wanted.items():
        if not fits(values[name]):
            return f'{name} must be {what}, not {values[name]!r}'
    return None


def _unfit_step(step: Any) -> str | None:
    if not isinstance(step, dict):
        return 'not an object'
    op = step.get('op')
    if not isinstance(op, str) or op not in STEPS:
        return f'unknown step {op!r}'
    if why := _unfit(step, {'op': _one_of(op), **STEPS[op]}):
        return why
    names = _INTERPOLATIONS.get(step.get('library'), ())
    if names and step['interpolation'] not in names:
        return f'{step["library"]} has no interpolation {step["interpolation"]!r}'
    if op == 'pad' and (step['width'] is None) != (step['height'] is None):
        return 'width and height go together'
    return None
