import os

# Tests run side by side: one thread each, or they fight for the cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every run."""
    torch.manual_seed(0)
