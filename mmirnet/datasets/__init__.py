from .digits import Digits
from .fashion_mnist import FashionMNIST32
from .loading import LoadImageFromFile
from .seeding import ExactSampler

__all__ = ['Digits', 'ExactSampler', 'FashionMNIST32', 'LoadImageFromFile']
