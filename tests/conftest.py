import gc
import os
from contextlib import suppress

# Tests run side by side: one thread each, or they fight for the cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

torch.set_num_threads(1)

# Not for doctest: of two conftest.py it finds one, and a fuzzer is not installed.
collect_ignore_glob = ['conftest.py', '*/conftest.py', 'by_hand/*']


@pytest.fixture(autouse=True, scope='session')
def shared_images():
    """Threads share images that are too small for it, too."""
    with suppress(ImportError):  # not built
        from mmirnet.runtime import _native

        _native.Network.share_from(0)


@pytest.fixture(autouse=True, scope='module')
def little_to_search():
    """Imports are no garbage; MMEngine looks for some with every data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='module')
def small_resnets():
    """ResNets have one block a stage in all of a module."""
    from few_blocks import few_blocks

    with few_blocks():
        yield


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every run."""
    torch.manual_seed(0)
