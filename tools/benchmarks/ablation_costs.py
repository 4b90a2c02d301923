"""Measures training step, packed size and latency of the networks of some configs.

The results are written to costs.json.
"""

import argparse
import copy
import math
import statistics
from datetime import date
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from reports import write_json
from torch import nn

import mmirnet  # noqa: F401
from mmirnet.analysis.cost.measure import (
    interleaved,
    machine,
    packed_bytes,
    seconds_an_image,
)
from mmirnet.apis.command_line import at_least
from mmirnet.binary import set_ede
from mmirnet.engine.speed import compile_model
from mmirnet.packed import pack
from mmirnet.runtime import Session

BATCH = 128


def step_of(model: nn.Module, x: torch.Tensor, labels: torch.Tensor):
    """Creates a training step: forward, loss, backward, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measures and writes costs.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'folder',
        nargs='?',
        default='configs/ablation',
        type=Path,
        help='folder of the configs, where costs.json is written (configs/ablation)',
    )
    parser.add_argument(
        '--repeats', type=at_least(1), default=15, help='repeats of each step (15)'
    )
    parser.add_argument(
        '--only', default='', metavar='END', help='only configs whose names end so'
    )
    parser.add_argument(
        '--no-step', action='store_true', help='leave out the training step'
    )
    args = parser.parse_args()
    configs = sorted(args.folder.glob(f'*{args.only}.py'))
    if not configs:
        parser.error(f'there is no config {args.folder}/*{args.only}.py')
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel('WARNING')
    init_default_scope('mmpretrain')
    x = torch.randn(BATCH, 3, 32, 32)
    labels = torch.randint(10, (BATCH,))
    # The default of eight compilations is for all networks of a class.
    torch._dynamo.config.cache_size_limit = 100
    steps, costs = {}, {}
    for path in configs:
        model = MODELS.build(Config.fromfile(path).model)
        model.init_weights()
        set_ede(model, 0.5)
        model.train().to(memory_format=torch.channels_last)
        if args.no_step:
            with torch.no_grad():
                model(x)  # fills the running statistics
        else:
            compiled = copy.deepcopy(model)
            compile_model(compiled)
            for way, network in (('eager', model), ('compiled', compiled)):
                steps[path.stem, way] = step_of(network, x, labels)
                steps[path.stem, way]()  # warm-up; fills the running statistics
        packed = pack(model, (32, 32))
        _, seconds, _ = seconds_an_image(Session(packed, threads=1))
        costs[path.stem] = dict(
            packed_bytes=packed_bytes(packed), runtime_us=round(1e6 * seconds, 1)
        )
    times = interleaved(steps, args.repeats, x.device) if steps else {}
    for name, way in times:
        fastest = statistics.median(times[name, way])
        cost = costs[name]
        cost['step_ms'] = min(round(1e3 * fastest, 1), cost.get('step_ms', math.inf))
    report = dict(machine(x.device), date=date.today().isoformat(), configs=costs)
    print(write_json(args.folder / 'costs.json', report).read_text())


if __name__ == '__main__':
    main()
