"""What networks cost: bits, bytes, operations, seconds."""

from .count import Layer, Summary, summarize_config, summary
from .table import write_csv

__all__ = ['Layer', 'Summary', 'summarize_config', 'summary', 'write_csv']
