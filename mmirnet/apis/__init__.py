"""What the tools call: the only place where all parts of the package meet.

Training, evaluation, packing, export, inference, publishing, conversion, reports and
experiments, each in a module of its own.
"""

from ..compat import check_versions

check_versions()

from .evaluation import evaluate
from .training import train

__all__ = ['evaluate', 'train']
