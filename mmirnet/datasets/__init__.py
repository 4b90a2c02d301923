from .digits import Digits
from .fashion_mnist import FashionMNIST32

__all__ = ['Digits', 'FashionMNIST32']
