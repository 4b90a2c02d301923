"""High-level functions behind the tools, which combine all parts of the package.

Training, evaluation, packing, export, inference, publishing, conversion, reports and
experiments have one module each.
"""

from ..compat import check_versions

check_versions()

from .evaluation import evaluate
from .training import train

__all__ = ['evaluate', 'train']
