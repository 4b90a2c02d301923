"""Converts a test pipeline to the steps in a packed file."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mmcv
from mmcv import transforms as cv
from mmpretrain.datasets import transforms as pretrain

from ..datasets import FashionMNIST32, LoadImageFromFile
from ..engine import facts
from ..errors import UnsupportedModelError
from .preparation import LIBRARIES, ORDERS

# What FashionMNIST32 pads, in height and width: files are the smaller originals.
_FASHION_PAD = 4
_COLOUR = ('color', 'color_ignore_orientation')
_GREY = ('grayscale', 'grayscale_ignore_orientation')
_REVERSED = {'rgb': 'bgr', 'bgr': 'rgb', 'grey': 'grey'}


def preparation(dataset: Any, to_rgb: bool) -> dict[str, Any]:
    """Derives how an image file is prepared from the test pipeline of a data set.

    If the data set holds its images (the digits, Fashion-MNIST, CIFAR-10), its pipeline
    does not define how files are read. The step ``fit`` then brings them to the size of
    its images.

    Args:
        dataset (Dataset): The data set. Its files may be missing.
        to_rgb (bool): Whether the data preprocessor reverses the channels.

    Returns:
        dict[str, Any]: ``order``, ``read`` and ``steps``, see
        :mod:`mmirnet.packed.preparation`. If the pipeline has ``Normalize``, also its
        ``mean`` and ``std``.

    Raises:
        UnsupportedModelError: If a transform has no counterpart among the steps.

    Example:
        >>> from mmirnet.datasets import Digits
        >>> digits = Digits(split='test', pipeline=[dict(type='PackInputs')])
        >>> preparation(digits, to_rgb=False)['steps']
        [{'op': 'fit', 'width': 32, 'height': 32, 'pad': 0, 'cover': 1.0}]
    """
    transforms = list(_flat(facts.transforms(dataset)))
    if (held := held_images(dataset, to_rgb)) is None:
        order, reading = _reading(transforms.pop(0))
        steps = []
    else:
        order, steps = held
        reading = dict(library='cv2', upright=True, float=False)
    normalisation: dict[str, list[float]] = {}
    for transform in transforms:
        if _reverses(transform):
            order = _reverse(order, normalisation)
        elif type(transform) is cv.Normalize:
            if normalisation:
                _refuse(transform, 'normalises a second time')
            order = _REVERSED[order] if transform.to_rgb else order
            normalisation = _normalisation(transform, order)
        elif (translate := _TRANSFORMS.get(type(transform))) is None:
            _refuse(transform, 'has no counterpart there')
        else:
            more = translate(transform, order)
            if more and normalisation:
                _refuse(transform, 'comes after Normalize')
            steps += more
    # Whole numbers stay whole where nothing is interpolated.
    reading['float'] &= any('interpolation' in step for step in steps)
    order = _reverse(order, normalisation) if to_rgb else order
    return dict(order=order, read=reading, steps=steps, **normalisation)


def _reverse(order: str, normalisation: dict[str, list[float]]) -> str:
    """Returns the reversed order, and reverses mean and deviation in place."""
    for values in normalisation.values():
        values.reverse()
    return _REVERSED[order]


def _normalisation(transform: cv.Normalize, order: str) -> dict[str, list[float]]:
    """Returns mean and deviation of a pipeline's ``Normalize``."""
    values = {name: getattr(transform, name).tolist() for name in ('mean', 'std')}
    if any(len(numbers) != ORDERS[order] for numbers in values.values()):
        _refuse(transform, f'has not one mean and std for each of {ORDERS[order]}')
    return values


def _refuse(transform: Any, why: str) -> None:
    raise UnsupportedModelError(
        f'test pipeline: a packed file cannot prepare images as {_name(transform)} '
        f'does, which {why}; it knows LoadImageFromFile, Resize, ResizeEdge, '
        'CenterCrop, EfficientNetCenterCrop, Pad and, behind them, Normalize'
    )


def _name(transform: Any) -> str:
    wrapped = getattr(transform, 't', None)  # of MMPretrain's wrapper of torchvision
    if type(transform).__name__ == 'TorchVisonTransformWrapper':
        return f'torchvision/{type(wrapped).__name__}'
    return getattr(transform, '__name__', type(transform).__name__)


def _flat(transforms: Iterable[Any]) -> Iterator[Any]:
    """Iterates over the transforms of a pipeline, including nested ones."""
    for transform in transforms:
        if type(transform) is cv.Compose:
            yield from _flat(transform.transforms)
        else:
            yield transform


def held_images(dataset: Any, to_rgb: bool) -> tuple[str, list[dict]] | None:
    """Derives how a file is prepared like the images that a data set holds.

    Args:
        dataset (Dataset): The data set.
        to_rgb (bool): Whether the data preprocessor reverses the channels.

    Returns:
        tuple[str, list[dict]] | None: Order of the channels in these images, and the
        steps to their size. None if the data set reads files.
    """
    loads = any(isinstance(t, cv.LoadImageFromFile) for t in facts.transforms(dataset))
    shape = facts.held_shape(dataset)
    if loads or shape is None:
        return None
    order = facts.held_order(dataset, to_rgb)
    pad = _FASHION_PAD if isinstance(facts.parts(dataset)[0], FashionMNIST32) else 0
    size = dict(width=shape[1], height=shape[0])
    return order, [dict(op='fit', **size, pad=pad, cover=1.0)]


def _reading(loader: Any) -> tuple[str, dict]:
    """Returns the channel order of a loader's images, and the field ``read``."""
    if type(loader) not in (cv.LoadImageFromFile, LoadImageFromFile):
        _refuse(loader, 'stands before or in place of LoadImageFromFile')
    flag = loader.color_type
    if flag not in _COLOUR + _GREY:
        _refuse(loader, f'reads with color_type={flag!r}')
    # mmcv.use_backend() settles it where the config does not.
    library = loader.imdecode_backend or mmcv.image.io.imread_backend
    if library not in LIBRARIES:
        _refuse(loader, f'reads with imdecode_backend={library!r}')
    upright = not flag.endswith('ignore_orientation')
    reading = dict(library=library, upright=upright, float=bool(loader.to_float32))
    return 'grey' if flag in _GREY else 'bgr', reading


def _reverses(transform: Any) -> bool:
    """Whether a transform only reverses the channels."""
    if type(transform) is pretrain.NumpyToPIL:
        return transform.to_rgb
    if type(transform) is pretrain.PILToNumpy and transform.dtype in (None, 'uint8'):
        return transform.to_bgr
    return False


def _resizing(transform: Any) -> dict:
    library = transform.backend or mmcv.image.geometric.imread_backend
    if library not in LIBRARIES:
        _refuse(transform, f'resizes with backend={library!r}')
    return dict(interpolation=transform.interpolation, library=library)


def _resize(transform: Any, order: str) -> list[dict]:
    ratio = dict(keep_ratio=bool(transform.keep_ratio), **_resizing(transform))
    if transform.scale:
        width, height = transform.scale
        return [dict(op='resize', width=width, height=height, **ratio)]
    x, y = map(float, transform.scale_factor)
    return [dict(op='rescale', x=x, y=y, **ratio)]


def _resize_edge(transform: Any, order: str) -> list[dict]:
    where = dict(edge=transform.edge, size=transform.scale)
    return [dict(op='resize_edge', **where, **_resizing(transform))]


def _center_crop(transform: Any, order: str) -> list[dict]:
    width, height = transform.crop_size
    steps = [dict(op='center_crop', width=width, height=height)]
    if transform.auto_pad:
        pad = cv.TRANSFORMS.build(dict(transform.pad_cfg, size=(width, height)))
        if type(pad) is not cv.Pad:
            _refuse(transform, f'pads with {_name(pad)}')
        steps = _pad(pad, order) + steps
    return steps


def _efficientnet_crop(transform: Any, order: str) -> list[dict]:
    where = dict(size=transform.crop_size, padding=transform.crop_padding)
    return [dict(op='efficientnet_crop', **where, **_resizing(transform))]


def _pad(transform: Any, order: str) -> list[dict]:
    value = transform.pad_val.get('img', 0)
    if isinstance(value, float) and order != 'grey':
        value = (value, 0, 0)  # as OpenCV takes it
    value = list(value) if isinstance(value, (tuple, list)) else [value]
    width, height = transform.size or (None, None)
    return [
        dict(
            op='pad',
            width=width,
            height=height,
            divisor=transform.size_divisor,
            square=bool(transform.pad_to_square),
            # The steps see RGB where the pipeline has BGR.
            value=value[::-1] if order == 'bgr' else value,
            mode=transform.padding_mode,
        )
    ]


def _nothing(transform: Any, order: str) -> list[dict]:
    return []


def _flip(transform: Any, order: str) -> list[dict]:
    if transform.prob not in (0, 0.0, None):
        _refuse(transform, 'is random')
    return []


def _pack(transform: Any, order: str) -> list[dict]:
    if transform.input_key != 'img':
        _refuse(transform, f'packs {transform.input_key!r}')
    return []


# Exact classes: a subclass may do something else.
_TRANSFORMS: dict[type, Callable[[Any, str], list[dict]]] = {
    cv.Resize: _resize,
    cv.Pad: _pad,
    cv.CenterCrop: _center_crop,
    cv.RandomFlip: _flip,
    pretrain.ResizeEdge: _resize_edge,
    pretrain.EfficientNetCenterCrop: _efficientnet_crop,
    pretrain.PackInputs: _pack,
    pretrain.NumpyToPIL: _nothing,
    pretrain.PILToNumpy: _nothing,
}
