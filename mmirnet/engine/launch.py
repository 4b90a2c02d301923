"""Starts the process group of a distributed run, on GPUs or CPUs."""

import datetime
import os
import subprocess

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from torch import distributed

from ..errors import ConfigError

#: Environment variables of each launcher: rank, number of processes, and rank on the
#: node.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}


def join_processes(cfg: Config) -> None:
    """Joins the process group of a distributed run.

    MMEngine's launchers need CUDA. Without CUDA the processes use gloo.

    Args:
        cfg (Config): The config. Without CUDA, its ``model_wrapper_cfg`` is set.

    Raises:
        ConfigError: If the launcher's variables are missing, or if a process has no GPU
            of its own.
    """
    if cfg.launcher == 'none':
        return
    variables = RANK_VARIABLES[cfg.launcher]
    if missing := [name for name in variables if name not in os.environ]:
        raise ConfigError(
            f'--launcher {cfg.launcher} needs {", ".join(missing)} in the '
            f'environment: start with tools/dist_*.sh or tools/slurm_*.sh'
        )
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    if get_device() == 'cpu':
        _join_by_gloo(cfg.launcher, dist_cfg)
        _wrap_without_devices(cfg)
        return
    local_rank = int(os.environ[variables[-1]])
    if local_rank >= torch.cuda.device_count() > 0:
        raise ConfigError(
            f'process {local_rank} of this node has no GPU: '
            f'{torch.cuda.device_count()} are visible'
        )
    # The Runner would do this after the processes have to agree on a checkpoint.
    init_dist(cfg.launcher, **dist_cfg)


def _join_by_gloo(launcher: str, dist_cfg: dict) -> None:
    """Sets the variables that torch reads, and starts the process group."""
    rank, world_size, local_rank = (
        int(os.environ[name]) for name in RANK_VARIABLES[launcher]
    )
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port', 29500)))
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        nodes = os.environ['SLURM_NODELIST']
        os.environ['MASTER_ADDR'] = subprocess.run(
            ['scontrol', 'show', 'hostname', nodes],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()[0]
    os.environ['LOCAL_RANK'] = str(local_rank)
    os.environ['RANK'] = str(rank)
    distributed.init_process_group(
        'gloo',
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=dist_cfg.get('timeout', 1800)),
    )


def _wrap_without_devices(cfg: Config) -> None:
    """Lets the runner wrap the model for processes that have no GPU."""
    default = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    given = cfg.get('model_wrapper_cfg', {})
    cfg.model_wrapper_cfg = {**default, **given, 'device_ids': None}
