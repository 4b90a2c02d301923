"""Renders reports on runs as one self-contained HTML page."""

import base64
import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from .. import __version__
from ..analysis import plots
from ..analysis.cost.table import COLUMNS, LEGEND
from ..engine.speed import device_name


class Picture(NamedTuple):
    """A figure for both backgrounds, as data URIs."""

    light: str
    dark: str
    caption: str


class Example(NamedTuple):
    """A prediction: the image as a data URI, class names, probability in %."""

    image: str
    pixelated: bool
    true: str
    predicted: str
    probability: float


class RunReport(NamedTuple):
    """Content of the page for one run. Missing parts are empty."""

    name: str
    settings: dict[str, str]
    results: dict[str, str]
    pictures: dict[str, Picture]
    statistics: dict[str, str]
    rows: list[list[str]]
    comparison: str
    right: list[Example]
    wrong: list[Example]
    notes: list[str]


def render(reports: Sequence[RunReport]) -> str:
    """Renders the page.

    Args:
        reports (Sequence[RunReport]): One report per run.

    Returns:
        str: HTML. All text from files is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template('page.html.j2').render(
        runs=reports,
        columns=COLUMNS,
        legend=LEGEND,
        light=plots.LIGHT,
        dark=plots.DARK,
        version=__version__,
        today=datetime.date.today().isoformat(),
        machine=device_name(torch.device('cpu')),
        side_by_side=_side_by_side,
        zip=zip,
    )


def _side_by_side(tables: Sequence[dict[str, str]]) -> list[tuple[str, list, bool]]:
    """Merges several tables to rows of name, values, and whether these differ."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name, '') for table in tables]) for name in names]
    return [(name, values, len(set(values)) > 1) for name, values in rows]


def _data_uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def svg_uri(figure: Figure) -> str:
    """Converts a figure to a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', dpi=150)
    return _data_uri(buffer.getvalue(), 'svg+xml')


def png_uri(image: np.ndarray) -> str:
    """Converts an array (H, W, 1 or 3) to a data URI, and shrinks large arrays."""
    if image.dtype != np.uint8:  # normalised in the pipeline
        low, high = float(image.min()), float(image.max())
        image = (255 * (image - low) / max(high - low, 1e-6)).astype(np.uint8)
    image = image[..., 0] if image.shape[-1] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((192, 192))
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG', optimize=True)
    return _data_uri(buffer.getvalue(), 'png')
