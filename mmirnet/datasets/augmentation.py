"""Augmentation of whole batches on the device, as MMPretrain's transforms do it.

Parameters are drawn by the transforms' formulas for all samples of an epoch at once.
Colours follow Pillow's arithmetic, with its roundings, and are the same. Resized pixels
differ from Pillow's and OpenCV's by at most one level of 255.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import (
    ColorJitter,
    NumpyToPIL,
    PackInputs,
    PILToNumpy,
    RandomCrop,
    RandomResizedCrop,
)
from torch import Tensor
from torchvision.transforms import ColorJitter as TorchvisionColorJitter

#: Weights of R, G and B in grey, of 2**16.
_GREY = (19595, 38470, 7471)
_COLOURS = ('brightness', 'contrast', 'saturation', 'hue')


def crop_and_flip(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int
) -> Tensor:
    """Pads every image with zeros, crops it to its own size, and mirrors some crops.

    Args:
        images (Tensor): (N, C, H, W).
        offsets (Tensor): (N, 2), int64: first row and column of each crop in the
            padded image, from 0 to 2 * ``padding``.
        flips (Tensor): (N,), bool: whether to mirror each crop.
        padding (int): Pixels on each side.

    Returns:
        Tensor: (N, C, H, W).

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> crop_and_flip(image, torch.tensor([[0, 1]]), torch.tensor([True]), 1)
        tensor([[[[0, 0],
                  [2, 1]]]])
    """
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    # A view of all (2 * padding + 1)^2 crops, from which one per image is copied.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(n, device=images.device)
    crops = windows[sample, :, offsets[:, 0], offsets[:, 1]]
    return torch.where(flips[:, None, None, None], crops.flip(-1), crops)


def draw_boxes(
    number: int,
    size: tuple[int, int],
    crop: RandomResizedCrop,
    generator: torch.Generator,
) -> Tensor:
    """Draws the boxes of ``RandomResizedCrop``.

    Args:
        number (int): Number of boxes.
        size (tuple[int, int]): Height and width of the images.
        crop (RandomResizedCrop): MMPretrain's transform, for its ranges.
        generator (torch.Generator): Source of random numbers.

    Returns:
        Tensor: (number, 4), int64: top, left, height and width.
    """
    height, width = size
    boxes = torch.tensor(_central_box(size, crop.aspect_ratio_range)).repeat(number, 1)
    missing = torch.ones(number, dtype=torch.bool)
    low, high = (math.log(ratio) for ratio in crop.aspect_ratio_range)
    for _ in range(crop.max_attempts):
        u = torch.rand(4, number, generator=generator, dtype=torch.float64)
        area = _between(u[0], *crop.crop_ratio_range) * (height * width)
        ratio = _between(u[1], low, high).exp()
        w = (area * ratio).sqrt().round().long()
        h = (area / ratio).sqrt().round().long()
        fits = missing & (w > 0) & (w <= width) & (h > 0) & (h <= height)
        top, left = (u[2] * (height - h + 1)).long(), (u[3] * (width - w + 1)).long()
        found = torch.stack([top, left, h, w], 1)
        boxes = torch.where(fits[:, None], found, boxes)
        missing &= ~fits
    return boxes


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _central_box(size: tuple[int, int], ratios: tuple[float, float]) -> list[int]:
    """The box where no attempt fits: the largest one of an allowed ratio."""
    h, w = height, width = size
    if width / height < min(ratios):
        h = round(width / min(ratios))
    elif width / height > max(ratios):
        w = round(height * max(ratios))
    return [(height - h) // 2, (width - w) // 2, h, w]


def resize_boxes(
    images: Tensor, boxes: Tensor, size: tuple[int, int], *, antialias: bool
) -> Tensor:
    """Crops a box of each image and resizes it bilinearly.

    Args:
        images (Tensor): (N, C, H, W), uint8.
        boxes (Tensor): (N, 4), as of :func:`draw_boxes`.
        size (tuple[int, int]): Height and width of the result.
        antialias (bool): Average over all pixels where it shrinks, as Pillow does and
            OpenCV does not.

    Returns:
        Tensor: (N, C, height, width), uint8.

    Example:
        >>> image = torch.tensor([[[[0, 100, 9]]]], dtype=torch.uint8)
        >>> resize_boxes(image, torch.tensor([[0, 0, 1, 2]]), (1, 4), antialias=True)
        tensor([[[[  0,  25,  75, 100]]]], dtype=torch.uint8)
    """
    n, channels, height, width = images.shape
    top, left, h, w = boxes.unbind(1)
    across = _weights(left, w, width, size[1], antialias)
    down = _weights(top, h, height, size[0], antialias)
    x = images.reshape(n, channels * height, width).float() @ across.transpose(1, 2)
    if antialias:  # Pillow rounds in between
        x = (x + 0.5).floor()
    x = x.view(n, channels, height, size[1]).transpose(1, 2)
    x = down @ x.reshape(n, height, channels * size[1])
    x = (x + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return x.view(n, size[0], channels, size[1]).transpose(1, 2).contiguous()


def _weights(
    start: Tensor, length: Tensor, pixels: int, outputs: int, antialias: bool
) -> Tensor:
    """Weights of the pixels in each output, (N, outputs, pixels)."""
    device = start.device
    scale = (length.double() / outputs).float()[:, None, None]
    radius = scale.clamp(min=1) if antialias else torch.ones_like(scale)
    centre = (torch.arange(outputs, device=device)[:, None] + 0.5) * scale
    pixel = torch.arange(pixels, device=device) - start[:, None]
    inside = (pixel >= 0) & (pixel < length[:, None])
    distance = (pixel[:, None, :] + 0.5 - centre).abs() / radius
    weight = (1 - distance).clamp(min=0) * inside[:, None, :]
    return weight / weight.sum(-1, keepdim=True)


def draw_colours(
    number: int, jitter: Any, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws order and factors of ``ColorJitter``.

    Args:
        number (int): Number of samples.
        jitter (ColorJitter): MMPretrain's or torchvision's transform.
        generator (torch.Generator): Source of random numbers.

    Returns:
        tuple[Tensor, Tensor]: (number, 4), the order of brightness (0), contrast,
        saturation and hue (3); and (number, 4), their factors.
    """
    u = torch.rand(2, number, 4, generator=generator, dtype=torch.float64)
    ranges = [getattr(jitter, name) or (0, 0) for name in _COLOURS]
    factors = [_between(u[1, :, i], *ends) for i, ends in enumerate(ranges)]
    return u[0].argsort(1), torch.stack(factors, 1)


def change_colours(
    images: Tensor, order: Tensor, factors: Tensor, kinds: Sequence[int] = range(4)
) -> Tensor:
    """Changes brightness, contrast, saturation and hue of each image.

    Args:
        images (Tensor): (N, 3, H, W), uint8, RGB.
        order (Tensor): See :func:`draw_colours`; on the CPU.
        factors (Tensor): See :func:`draw_colours`; on the CPU.
        kinds (Sequence[int]): The changes to make.

    Returns:
        Tensor: (N, 3, H, W), uint8.
    """
    images = images.clone()
    for kinds_now in order.T:
        for kind in kinds:
            (rows,) = (kinds_now == kind).nonzero(as_tuple=True)
            if len(rows):
                factor = factors[rows, kind].to(images.device, torch.float32)
                rows = rows.to(images.device)
                images[rows] = _CHANGES[kind](images[rows], factor)
    return images


def _grey(images: Tensor) -> Tensor:
    r, g, b = (images[:, i].int() * weight for i, weight in enumerate(_GREY))
    return (r + g + b + (1 << 15)) >> 16


def _blend(start: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    """Extrapolates from one image through another; truncates as Pillow does."""
    mixed = start + factor[:, None, None, None] * (images.float() - start)
    return mixed.clamp(0, 255).to(torch.uint8)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(0.0, images, factor)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    grey = _grey(images).flatten(1)
    mean = (2 * grey.sum(1) + grey.shape[1]) // (2 * grey.shape[1])
    return _blend(mean[:, None, None, None].float(), images, factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(images)[:, None].float(), images, factor)


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Moves the hue in Pillow's HSV, whose three channels have 8 bits."""
    hue, saturation, value = _to_hsv(images)
    hue = (hue + (factor * 255).int()[:, None, None]) % 256
    return _to_rgb(hue, saturation, value)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == 'mps' else torch.float64


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = images.float()
    high, low = x.amax(1), x.amin(1)
    spread = (high - low).clamp(min=1)
    r, g, b = ((high - x[:, i]) / spread for i in range(3))
    # Pillow stores float and computes in double, which decides where 255ths are cut.
    wide = _widest(images.device)
    r, g, b = r.to(wide), g.to(wide), b.to(wide)
    hue = torch.where(x[:, 1] == high, 2 + r - b, 4 + g - r)
    hue = torch.where(x[:, 0] == high, b - g, hue).float().to(wide)
    hue = (((hue / 6 + 1) % 1).float().to(wide) * 255).int()
    saturation = (((high - low) / high.clamp(min=1)).to(wide) * 255).int()
    return torch.where(high == low, 0, hue), saturation, high


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    wide = _widest(hue.device)
    sixth = hue.to(wide) * 6 / 255
    part, s = sixth.floor(), (saturation.to(wide) / 255).float().to(wide)
    f = (sixth - part).float().to(wide)
    p, q, t = (
        (value * (1 - s * share) + 0.5).floor().float()
        for share in (torch.ones_like(f), f, 1 - f)
    )
    part = part.long() % 6
    v = value
    channels = ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))
    return torch.stack(
        [
            torch.stack(channel, 1).gather(1, part[:, None])[:, 0]
            for channel in channels
        ],
        1,
    ).to(torch.uint8)


_CHANGES = (_brightness, _contrast, _saturation, _hue)


class Draws(NamedTuple):
    """What is drawn for all samples of an epoch; None for what a pipeline lacks."""

    offsets: Tensor
    flips: Tensor
    boxes: Tensor | None = None
    order: Tensor | None = None
    factors: Tensor | None = None


class Augmentation:
    """The random part of a pipeline, for whole batches.

    Args:
        transforms (Sequence): ``RandomCrop`` or ``RandomResizedCrop``, then horizontal
            ``RandomFlip`` and ``ColorJitter``, each at most once, and ``PackInputs``.
        size (tuple[int, int]): Height and width of the images.

    Attributes:
        fits (bool): Whether these are such transforms, with supported arguments.
    """

    def __init__(self, transforms: Sequence[Any], size: tuple[int, int]) -> None:
        self.size = size
        self.padding, self.flip_prob = 0, 0.0
        self.crop: RandomResizedCrop | None = None
        self.jitter: Any = None
        #: Whether the images are BGR where colours are changed.
        self.is_bgr = True
        *transforms, last = transforms or [None]
        self.fits = isinstance(last, PackInputs)
        seen: set[str] = set()
        for transform in _plain(transforms):
            kind = self._take(transform)
            # Contrast depends on all pixels, so the crop comes first.
            late = kind == 'crop' and 'jitter' in seen
            self.fits &= kind is not None and kind not in seen and not late
            seen.add(kind)

    @property
    def draws(self) -> bool:
        """Whether anything is random."""
        return bool(self.padding or self.flip_prob or self.crop or self.jitter)

    def _take(self, transform: Any) -> str | None:
        """Takes the arguments of a transform; returns its kind if it is supported."""
        fits, kind = False, None
        if isinstance(transform, RandomCrop):
            kind, self.padding = 'crop', transform.padding or 0
            fits = isinstance(self.padding, int) and transform.pad_val == 0
            fits &= tuple(transform.crop_size) == tuple(self.size)
            fits &= transform.padding_mode == 'constant'
        elif isinstance(transform, RandomResizedCrop):
            kind, self.crop = 'crop', transform
            fits = transform.interpolation == 'bilinear'
            fits &= transform.backend in ('cv2', 'pillow')
        elif isinstance(transform, RandomFlip):
            kind, self.flip_prob = 'flip', transform.prob
            fits = isinstance(self.flip_prob, float)
            fits &= transform.direction == 'horizontal'
        elif isinstance(transform, ColorJitter):
            kind, self.jitter = 'jitter', transform
            fits = transform.backend == 'pillow'
        elif isinstance(transform, _BetweenPIL):
            kind, self.jitter = 'jitter', transform.jitter
            self.is_bgr, fits = transform.to_rgb, True
        return kind if fits else None

    def draw(self, number: int, generator: torch.Generator, device: Any) -> Draws:
        """Draws the augmentation of all samples.

        Args:
            number (int): Number of samples.
            generator (torch.Generator): Source of random numbers, on the CPU.
            device (torch.device): Device of the images.

        Returns:
            Draws: The parameters.
        """
        high = 2 * self.padding + 1
        offsets = torch.randint(high, (number, 2), generator=generator)
        flips = torch.rand(number, generator=generator) < self.flip_prob
        boxes = order = factors = None
        if self.crop:
            boxes = draw_boxes(number, self.size, self.crop, generator).to(device)
        if self.jitter:
            order, factors = draw_colours(number, self.jitter, generator)
        return Draws(offsets.to(device), flips.to(device), boxes, order, factors)

    def __call__(self, images: Tensor, draws: Draws, rows: Tensor) -> Tensor:
        """Augments a batch.

        Args:
            images (Tensor): (N, C, H, W), uint8.
            draws (Draws): Output of :meth:`draw`.
            rows (Tensor): (N,), the samples; on the CPU.

        Returns:
            Tensor: (N, C, H', W'), uint8.
        """
        here = rows.to(images.device)
        if self.crop:
            antialias = self.crop.backend == 'pillow'
            size = tuple(self.crop.scale)
            images = resize_boxes(images, draws.boxes[here], size, antialias=antialias)
        offsets, flips = draws.offsets[here], draws.flips[here]
        images = crop_and_flip(images, offsets, flips, self.padding)
        if self.jitter:
            kinds = [i for i, name in enumerate(_COLOURS) if getattr(self.jitter, name)]
            rgb = images.flip(1) if self.is_bgr else images
            rgb = change_colours(rgb, draws.order[rows], draws.factors[rows], kinds)
            images = rgb.flip(1) if self.is_bgr else rgb
        return images


class _BetweenPIL(NamedTuple):
    """torchvision's ColorJitter, which takes an image of PIL, and its channels."""

    jitter: TorchvisionColorJitter
    to_rgb: bool


def _plain(transforms: Sequence[Any]) -> list[Any]:
    """Joins torchvision's ColorJitter with the conversions to PIL and back."""
    found = list(transforms)
    for i, (before, jitter, after) in enumerate(
        zip(found, found[1:], found[2:], strict=False)
    ):
        inner = getattr(jitter, 't', None)
        between = isinstance(before, NumpyToPIL) and isinstance(after, PILToNumpy)
        if (
            between
            and isinstance(inner, TorchvisionColorJitter)
            and before.to_rgb == after.to_bgr
        ):
            joined = _BetweenPIL(inner, before.to_rgb)
            return [*found[:i], joined, *found[i + 3 :]]
    return found
