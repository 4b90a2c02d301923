"""Packs thousands of random networks and compares what packs.

    python tests/by_hand/pack_random_networks.py 10000 30000

Takes the first and last seed. Any error but UnsupportedModelError, and any difference
between the network, its simulation and the runtime, ends the run and names the seed,
unless the network itself amplifies rounding.
"""

import copy
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'helpers'))

from random_networks import agrees, images, random_network


def rounds(network, shape, seed):
    """Whether the network's own answers move by 1e-6 in double precision."""
    x = images(seed, 3, shape)
    with torch.no_grad():
        single, double = network(x.clone()), copy.deepcopy(network).double()(x.double())
    return float((single - double).abs().max() / single.abs().max()) > 1e-6


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
            if not (isinstance(error, AssertionError) and rounds(network, shape, seed)):
                raise SystemExit(f'seed {seed}, {network.names}: {error!r}') from error
            outcomes['of rounding'] += 1
            continue
        outcomes['packed' if packs else 'refused'] += 1
    print(dict(outcomes))


if __name__ == '__main__':
    main()
