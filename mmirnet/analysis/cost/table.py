"""Formats a summary as a table, for the terminal and for files."""

import csv
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .count import Layer, Summary


# Wide enough for all columns, because truncated columns are not readable.
NATURAL_WIDTH = 200
#: Headers of the table, and the justification of their columns.
COLUMNS = {
    'layer': 'left',
    'type': 'left',
    'output': 'left',
    'W/A': 'left',
    'params': 'right',
    'packed': 'right',
    'fp32': 'right',
    'BOPs': 'right',
    'FLOPs': 'right',
    'binary': 'right',
    'OPs': 'right',
    'log2(s)': 'left',
}
#: Legend of the headers.
LEGEND = (
    'BOPs: binary operations; FLOPs: all others; binary: share of binary '
    'multiply-accumulates; OPs: BOPs / 64 + FLOPs; log2(s): exponent:channels'
)


def short(value: float, unit: str = '') -> str:
    """Formats a number with three digits and a prefix.

    Args:
        value (float): The number, not negative.
        unit (str): Its unit.

    Returns:
        str: The text.

    Example:
        >>> short(1_676_279_808), short(999.9, 'B'), short(7)
        ('1.68 G', '1 kB', '7')
    """
    power = 0
    while value >= 999.5:
        value /= 1000
        power += 1
    return f'{value:.3g} {["", "k", "M", "G", "T", "P"][power]}{unit}'.rstrip()


def _histogram(counts: dict[int, int]) -> str:
    return ' '.join(f'{exponent}:{count}' for exponent, count in counts.items())


def cells(layer: 'Layer') -> list[str]:
    """Formats a layer as a row of the table, with one text per column."""
    return [
        layer.name,
        layer.type,
        'x'.join(map(str, layer.output)),
        layer.bits,
        short(layer.parameters),
        short(layer.bytes_packed, 'B'),
        short(layer.bytes_fp32, 'B'),
        short(layer.bops),
        short(layer.flops),
        f'{layer.binary_share:.1%}' if layer.macs else '',
        short(layer.ops),
        _histogram(layer.log2_scales),
    ]


def write_csv(result: 'Summary', path: str | os.PathLike) -> None:
    """Writes the table of a summary as CSV, with the totals in the last row.

    Args:
        result (Summary): The summary.
        path (str | os.PathLike): The file.
    """
    rows = [layer.to_dict() for layer in [*result.layers, result.total]]
    for row in rows:
        row['output'] = 'x'.join(map(str, row['output']))
        row['log2_scales'] = _histogram(row['log2_scales'])
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
