"""ResNets of one block a stage, where torch traces what is to be compiled."""

import contextlib

import pytest

from mmirnet.models import IRResNet, IRResNet_CIFAR


@contextlib.contextmanager
def few_blocks():
    """The blocks of a stage are alike, and each takes torch half a second."""
    archs = {d: arch._replace(blocks=1) for d, arch in IRResNet_CIFAR.archs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IRResNet, 'blocks', {18: (1, 1, 1, 1), 34: (2, 1, 1, 1)})
        patch.setattr(IRResNet_CIFAR, 'archs', archs)
        yield
