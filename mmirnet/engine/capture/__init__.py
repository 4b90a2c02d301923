"""Loops that record steps as CUDA graphs and replay them."""

from .train_loop import CapturedEpochLoop
from .val_loop import CapturedValLoop

__all__ = ['CapturedEpochLoop', 'CapturedValLoop']
