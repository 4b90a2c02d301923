"""Trained models by name: downloaded, verified, cached and loaded.

:func:`fetch` needs requests, filelock and rich for a zoo behind a URL, but not for one
in a local folder. torch and OpenMMLab are imported only to build or load a model.
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
