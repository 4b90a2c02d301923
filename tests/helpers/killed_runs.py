"""Runs that are killed at a chosen moment, and what is left of them.

Each trains ResNet-20 on a few digits through tools/train.py. Weights, optimizer, batch
norm statistics, schedulers, averaged weights, best metric and logged losses of a killed
and resumed run have to be bit-identical to an uninterrupted one's.
"""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import warm_python
from mmengine.logging import HistoryBuffer

import mmirnet  # noqa: F401
from mmirnet.engine.checkpoint import find_intact_checkpoint

ROOT = Path(__file__).parents[2]

BASE = """
_base_ = '{root}/configs/irnet/resnet20_bireal_digits.py'
train_dataloader = dict(batch_size=16, dataset=dict(indices=60))
val_dataloader = dict(batch_size=16, dataset=dict(indices=40))
train_cfg = dict(max_epochs=3)
default_hooks = dict(logger=dict(interval=1), preemption=dict(interval=1))
randomness = dict(seed=7, deterministic=True)
"""

#: What is added to the config, and the number of ranks.
CASES = {
    'plain': ('', 1),
    'workers': (
        """
train_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='ColorJitter', brightness=0.5, contrast=0.5),
            dict(type='PackInputs'),
        ]
    ),
)
""",
        1,
    ),
    'ema': ("custom_hooks = [dict(type='EDEHook'), dict(type='EMAHook')]", 1),
    'amp': ("optim_wrapper = dict(type='Bf16OptimWrapper')", 1),
    'iterations': (
        """
train_cfg = dict(
    _delete_=True, type='DeterministicIterLoop', max_iters=11, val_interval=3)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=11, by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
custom_hooks = [dict(type='EDEHook', by_epoch=False, interval=3)]
log_processor = dict(by_epoch=False)
""",
        1,
    ),
    'two ranks': ('', 2),
}


def command(case: str, folder: Path, resume: bool, python: str) -> list[str]:
    """The command line of a case's run in a folder."""
    extra, ranks = CASES[case]
    config = folder / 'run.py'
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'base.py').write_text(BASE.format(root=ROOT))
        config.write_text(f"_base_ = './base.py'\n{extra}")
    args = [str(config), '--work-dir', str(folder)] + ['--resume'] * resume
    if ranks == 1:
        return [python, str(ROOT / 'tools/train.py'), *args]
    launch = [
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--local_addr=127.0.0.1',
        f'--nproc_per_node={ranks}',
    ]
    script = [str(ROOT / 'tools/train.py'), *args, '--launcher', 'pytorch']
    return [python, *launch, *script]


def processes(text: str) -> dict[int, int]:
    """Process ids and parents of the processes with a text in the command line."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if text in (folder / 'cmdline').read_text():
                stat = (folder / 'stat').read_text()
                found[int(folder.name)] = int(stat.rpartition(')')[2].split()[1])
    return found


def kill(folder: Path) -> None:
    """Kills a run with all its ranks, each of which torchrun gives its own session."""
    while pids := processes(str(folder)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(
    case: str, folder: Path, resume: bool = False, python: str = sys.executable
):
    """A started run."""
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONPATH=str(ROOT),
        PYTHONUNBUFFERED='1',
        PYTHON_EXEC=python,  # for torchrun
    )
    process = subprocess.Popen(
        command(case, folder, resume, python),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    try:
        yield process
    finally:
        kill(folder)
        process.wait()


def is_event(line: str) -> bool:
    """Whether a line of the log says where training stands."""
    return bool(
        re.search(r'(Epoch|Iter)\((train|val)\)|Saving checkpoint|best check', line)
    )


def finish(case: str, folder: Path, resume: bool = False) -> list[str]:
    """Run to the end; the events of the log."""
    with running(case, folder, resume, warm_python.python()) as process:
        output = process.communicate()[0]
    if process.returncode != 0:
        raise RuntimeError(f'{case} in {folder} failed:\n{output[-3000:]}')
    return [line for line in output.splitlines() if is_event(line)]


def stop(case: str, folder: Path, after: int, delay: float, signum: int) -> str:
    """Signal a run ``delay`` seconds behind its n-th event; where that was."""
    where = 'before the first iteration'
    with running(case, folder) as process:
        for _ in range(after):
            line = next((x for x in process.stdout if is_event(x)), None)
            where = line.split('INFO - ')[-1].split('  ')[0].strip() if line else 'end'
        time.sleep(delay)
        if signum == signal.SIGKILL:
            kill(folder)
        else:
            process.send_signal(signum)
            process.communicate(timeout=120)
    return where


def fingerprint(value) -> object:
    """Nested data with exact digests in place of arrays."""
    if isinstance(value, HistoryBuffer):
        value = value.data[0]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray | np.generic):
        data = np.ascontiguousarray(value)
        return hashlib.sha256(data.tobytes()).hexdigest()[:16], data.shape
    if isinstance(value, dict):
        return {str(k): fingerprint(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(v) for v in value]
    return value


def state(folder: Path) -> dict[str, object]:
    """All that has to agree, from the last checkpoint of a run."""
    checkpoint = torch.load(find_intact_checkpoint(folder), 'cpu', weights_only=True)
    hub = checkpoint.pop('message_hub')
    meta = checkpoint.pop('meta')
    clocks = ('time', 'data_time', 'memory')
    scalars = {
        name: buffer
        for name, buffer in hub['log_scalars'].items()
        if name.split('/')[-1] not in clocks
    }
    kept = dict(
        checkpoint,
        progress=[meta['epoch'], meta['iter']],
        scalars=scalars,
        best=hub['runtime_info'].get('best_score'),
    )
    return {k: fingerprint(v) for k, v in kept.items()}


def differences(a, b, path: str = '') -> list[str]:
    """Paths at which two fingerprints differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for k in keys for d in differences(a.get(k), b.get(k), f'{path}/{k}')]
    return [] if a == b else [path]
