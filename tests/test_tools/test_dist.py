"""The launchers with real processes, on CPU over gloo.

Few runs serve many checks. Where it matters whose child a process is, each imports for
seconds.
"""

import contextlib
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from killed_runs import processes
from small_run import PATIENCE, TEST_IMAGES, TOOLS, environment, small_config, warm

from mmirnet import apis

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='counts on CPU processes'
)

REPORT = """
custom_imports = dict(imports=['mmirnet', 'rank_report'])
custom_hooks = [
    dict(type='EDEHook'), dict(type='RankReport')
]
"""

#: The paper's schedule in the second of two epochs: t = 1, k = 1.
LAST_T_AND_K = [1.0, 1.0]


def start(folder, script, *args, prefix=(), environment=warm, **variables):
    """Starts a launcher in a folder, where MMEngine leaves .dist_test."""
    return subprocess.Popen(
        [*prefix, 'bash', TOOLS / script, *map(str, args)],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    """Their outputs, after all have ended well."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert not any(codes), '\n'.join([str(codes), *outputs])
    return outputs


def free_port():
    """A port that stays free while processes start: no client is given one so low."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(('', port))
            return str(port)


def reports(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob('rank_*.json'))]


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    """A run of dist_train.sh with two processes: its config and working folder."""
    folder = tmp_path_factory.mktemp('two_ranks')
    config = small_config(folder, REPORT)
    finish(start(folder, 'dist_train.sh', config, 2, '--work-dir', folder))
    return config, folder


def test_two_ranks_end_alike(two_ranks):
    first, second = reports(two_ranks[1])
    assert first == second
    assert first['world_size'] == 2
    assert set(map(tuple, first['ede'])) == {tuple(LAST_T_AND_K)}


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, capture_output=True)


@pytest.fixture
def nodes():
    """How to start a process on each of two nodes: command prefix and variables.

    The nodes are network namespaces with an address each where that is allowed, else
    both are this machine.
    """
    # Of this process: links have their names for a moment where others see them.
    names = [f'mmirnet{i}-{os.getpid()}' for i in range(2)]
    links = [f'node{i}-{os.getpid()}' for i in range(2)]
    try:
        for name in names:
            ip('netns', 'add', name)
        pair = ['netns', names[0], 'type', 'veth', 'peer', links[1]]
        ip('link', 'add', links[0], *pair)
        ip('link', 'set', links[1], 'netns', names[1])
        for i, name in enumerate(names):
            ip('-n', name, 'address', 'add', f'10.77.0.{i + 1}/24', 'dev', links[i])
            ip('-n', name, 'link', 'set', links[i], 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
        yield [
            (
                ['ip', 'netns', 'exec', name],
                dict(MASTER_ADDR='10.77.0.1', GLOO_SOCKET_IFNAME=links[i]),
            )
            for i, name in enumerate(names)
        ]
    except (OSError, subprocess.CalledProcessError):
        yield [([], dict(MASTER_ADDR='127.0.0.1'))] * 2
    finally:
        for name in names:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                ip('netns', 'delete', name)


def test_two_nodes_of_two_ranks_end_alike(nodes, tmp_path):
    config = small_config(tmp_path, REPORT)
    common = dict(NNODES='2', PORT=free_port())
    finish(
        *(
            start(
                tmp_path,
                'dist_train.sh',
                config,
                2,
                '--work-dir',
                tmp_path,
                prefix=prefix,
                NODE_RANK=str(rank),
                **common,
                **variables,
            )
            for rank, (prefix, variables) in enumerate(nodes)
        )
    )
    first, *others = reports(tmp_path)
    assert others == [first] * 3
    assert first['world_size'] == 4


@pytest.fixture(scope='module')
def one_process(two_ranks, tmp_path_factory):
    """Metrics and predictions of one process for the checkpoint of two_ranks."""
    config, folder = two_ranks
    out = tmp_path_factory.mktemp('one_process') / 'pred.pkl'
    checkpoint = str(folder / 'epoch_2.pth')
    metrics = apis.evaluate(
        str(config), checkpoint, work_dir=str(out.parent), out=str(out)
    )
    return metrics, pickle.loads(out.read_bytes())


def test_validation_while_training_is_that_of_one_process(two_ranks, one_process):
    scalars = next(two_ranks[1].glob('*/vis_data/scalars.json')).read_text()
    accuracy = [
        json.loads(line)['accuracy/top1']
        for line in scalars.splitlines()
        if 'accuracy' in line
    ]
    assert accuracy[-1] == one_process[0]['accuracy/top1']


SRUN = """#!/usr/bin/env bash
# Stands in for Slurm's srun: records its options, runs the command as three tasks.
printf '%s\\n' "$@" > "$RECORD"
while [[ $1 == -* ]]; do
  if [[ $1 == -p ]]; then shift; fi
  shift
done
export SLURM_NTASKS=3 SLURM_NODELIST=node1
for i in 0 1 2; do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  wait "$task" || exit 1
done
"""


@pytest.fixture
def slurm(tmp_path):
    """Variables of an environment with srun and scontrol."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    scontrol = (
        '#!/usr/bin/env bash\n[[ $* == "show hostname node1" ]] && echo localhost'
    )
    for name, text in {'srun': SRUN, 'scontrol': scontrol}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f'{folder}{os.pathsep}{warm()["PATH"]}'
    return dict(PATH=path, RECORD=str(tmp_path / 'record'), MASTER_PORT=free_port())


def test_three_slurm_tasks_count_every_image_once(
    two_ranks, one_process, slurm, tmp_path
):
    assert TEST_IMAGES % (3 * 4) != 0  # ranks x batch
    config, folder = two_ranks
    out = tmp_path / 'pred.pkl'
    (output,) = finish(
        start(
            tmp_path,
            'slurm_test.sh',
            'gpus',
            'night run',
            config,
            folder / 'epoch_2.pth',
            '--out',
            out,
            GPUS='3',
            GPUS_PER_NODE='3',
            CPUS_PER_TASK='2',
            SRUN_ARGS='--time=10 --exclusive',
            PY_ARGS=f'--work-dir {tmp_path}',
            **slurm,
        )
    )
    recorded = (tmp_path / 'record').read_text().splitlines()
    assert recorded[:10] == [
        '-p',
        'gpus',
        '--job-name=night run',
        '--gres=gpu:3',
        '--ntasks=3',
        '--ntasks-per-node=3',
        '--cpus-per-task=2',
        '--kill-on-bad-exit=1',
        '--time=10',
        '--exclusive',
    ]
    metrics, expected = one_process
    assert f'accuracy/top1: {metrics["accuracy/top1"]:.4f}' in output
    predictions = pickle.loads(out.read_bytes())
    assert [p['sample_idx'] for p in predictions] == list(range(TEST_IMAGES))
    for prediction, alone in zip(predictions, expected, strict=True):
        assert torch.equal(prediction['pred_label'], alone['pred_label'])
        torch.testing.assert_close(prediction['pred_score'], alone['pred_score'])


def test_what_all_ranks_find_is_one_line(tmp_path):
    """A folder of two classes under the config of a thousand."""
    for split in ('train', 'val'):
        for name in 'ab':
            file = tmp_path / 'images' / split / name / '0.png'
            file.parent.mkdir(parents=True)
            file.touch()
    config = Path(TOOLS).parent / 'configs/irnet/resnet18_bireal_in1k.py'
    options = [
        f'{loader}.dataset.data_root={tmp_path}/images'
        for loader in ('train_dataloader', 'val_dataloader')
    ]
    arguments = [config, 2, '--work-dir', tmp_path, '--cfg-options', *options]
    job = start(tmp_path, 'dist_train.sh', *arguments)
    output = job.communicate(timeout=240)[0]
    assert job.returncode == 2
    lines = [line for line in output.splitlines() if 'OMP_NUM_THREADS' not in line]
    assert len(lines) == 2
    for line, split in zip(lines, ('train', 'val'), strict=True):
        assert re.match(
            rf'\[rank \d\] error: {split}_dataloader.dataset: .*/{split} has 2 '
            'folders, but the data set has 1000 classes; ',
            line,
        )


def test_a_mistake_in_the_command_line_is_told_once(tmp_path):
    job = start(tmp_path, 'dist_train.sh', 'config.py', 3, '--resumee-from', 'x')
    output = job.communicate(timeout=240)[0]
    assert job.returncode == 2
    assert output.count('usage: train.py') == 1
    assert output.endswith('unrecognized arguments: --resumee-from x\n')


def is_rank(pid, rank):
    return f'RANK={rank}'.encode() in Path(f'/proc/{pid}/environ').read_bytes().split(
        b'\0'
    )


def long_job(folder):
    """Two ranks with data workers that would train for hours; after an epoch."""
    config = small_config(folder)
    options = ['train_cfg.max_epochs=10000', 'train_dataloader.num_workers=1']
    arguments = [config, 2, '--work-dir', folder, '--cfg-options', *options]
    job = start(folder, 'dist_train.sh', *arguments, environment=environment)
    deadline = time.monotonic() + PATIENCE
    while not (folder / 'epoch_1.pth').exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.2)
    return job


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_preempts_the_job(tmp_path, number):
    job = long_job(tmp_path)
    job.send_signal(number)
    output = job.communicate(timeout=PATIENCE)[0]
    assert job.returncode == 128 + number
    assert list(tmp_path.glob('preempted_iter_*.pth'))
    assert 'Traceback' not in output
    assert output.endswith(f'{number.name} ended the job\n')


def test_a_killed_rank_ends_the_job(tmp_path):
    job = long_job(tmp_path)
    (victim,) = (
        pid
        for pid, parent in processes(str(tmp_path)).items()
        if parent == job.pid and is_rank(pid, 1)
    )
    os.kill(victim, signal.SIGKILL)
    output = job.communicate(timeout=PATIENCE)[0]
    assert job.returncode != 0
    assert re.search(r'rank\s*: 1 ', output)
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in output
    # A data worker looks for its parent every 5 s.
    deadline = time.monotonic() + PATIENCE
    while left := processes(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
