from .digits import Digits
from .fashion_mnist import FashionMNIST32
from .in_memory import InMemory, InMemorySampler, keep_in_memory

__all__ = ['Digits', 'FashionMNIST32', 'InMemory', 'InMemorySampler', 'keep_in_memory']
