from ..compat import check_versions

check_versions()

from .digits import Digits
from .fashion_mnist import FashionMNIST32
from .in_memory import InMemory, keep_in_memory
from .loading import LoadImageFromFile
from .seeding import DeterministicSampler

__all__ = [
    'DeterministicSampler',
    'Digits',
    'FashionMNIST32',
    'InMemory',
    'LoadImageFromFile',
    'keep_in_memory',
]
