"""Trained models by name: a folder behind a URL, checked, cached, and used.

:func:`fetch` needs requests, filelock and rich; a zoo in a local folder needs none
of them. torch and OpenMMLab are imported only to build or load a model.
"""

from ..errors import ZooError
from .index import Entry, parse_index
from .models import get_model, list_models
from .store import fetch, read_index

__all__ = [
    'Entry',
    'ZooError',
    'fetch',
    'get_model',
    'list_models',
    'parse_index',
    'read_index',
]
