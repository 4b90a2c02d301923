"""Packs thousands of random networks and compares what packs.

    python tests/by_hand/pack_random_networks.py 10000 30000

Takes the first and last seed. Any error but UnsupportedModelError, and any difference
between the network, its simulation and the engine, ends the run and names the seed.
"""

import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / 'test_deploy'))

from random_networks import random_network
from test_tracing import agrees


def main() -> None:
    """Compare, and count."""
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    outcomes = Counter()
    for seed in range(*map(int, sys.argv[1:3])):
        network, shape = random_network(seed)
        try:
            packs = agrees(network, shape, seed)
        except Exception as error:
            raise SystemExit(f'seed {seed}, {network.names}: {error!r}') from error
        outcomes['packed' if packs else 'refused'] += 1
    print(dict(outcomes))


if __name__ == '__main__':
    main()
