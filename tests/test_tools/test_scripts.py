"""The scripts themselves, with stand-ins for what they start."""

import re
import shutil
import subprocess
import sys

import pytest
from small_run import PATIENCE, ROOT, TOOLS, environment
from warm_python import python

from mmirnet.zoo import fetch

SCRIPTS = [*sorted(TOOLS.rglob('*.sh')), ROOT / '.ci' / 'run']
LAUNCHERS = sorted([*TOOLS.glob('dist_*.sh'), *TOOLS.glob('slurm_*.sh')])
PROGRAMS = [p for p in sorted(TOOLS.rglob('*.py')) if 'argparse' in p.read_text()]

#: A Python whose torch sees $GPUS_SEEN GPUs and which prints what it is to run.
FAKE_PYTHON = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then
  echo "$GPUS_SEEN"
else
  echo "PYTHONPATH=$PYTHONPATH"
  echo "THREADS=$OMP_NUM_THREADS"
  printf '%s\\n' "$@"
fi
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def call(*command, **variables):
    return subprocess.run(
        [str(word) for word in command],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='shellcheck is missing')
def test_scripts_are_clean():
    result = call('shellcheck', *SCRIPTS)
    assert result.returncode == 0, result.stdout


def test_ci_runs_the_tests_script():
    lines = (ROOT / '.ci' / 'run').read_text().splitlines()
    assert 'bash tools/run_tests.sh' in lines


@pytest.mark.parametrize('script', LAUNCHERS, ids=lambda path: path.name)
def test_launchers_without_arguments_show_their_usage(script):
    result = call('bash', script)
    assert result.returncode == 2
    assert f'Usage: tools/{script.name} ' in result.stderr


@pytest.mark.parametrize('program', PROGRAMS, ids=lambda path: path.name)
def test_help(program):
    result = call(python(), program, '-h')
    assert result.returncode == 0, result.stderr
    description = re.search(r'"""(.+?)[:.;]', program.read_text()).group(1)
    assert ' '.join(description.split()[:4]) in ' '.join(result.stdout.split())


@pytest.fixture
def launch(tmp_path):
    """Calls a launcher of a copy of tools/ with a stand-in for Python."""
    executable(tmp_path / 'bin' / 'python', FAKE_PYTHON)
    path = f'{tmp_path / "bin"}:{environment()["PATH"]}'

    def call_copy(root, script, *arguments, **variables):
        shutil.copytree(TOOLS, root / 'tools', dirs_exist_ok=True)
        stand_ins = dict(PATH=path, PYTHONPATH='', GPUS_SEEN='0')
        script = root / 'tools' / script
        return call('bash', script, *arguments, **{**stand_ins, **variables})

    return call_copy


def test_a_checkout_comes_first_on_the_path(launch, tmp_path):
    (tmp_path / 'mmirnet').mkdir()
    (tmp_path / 'mmirnet' / '__init__.py').touch()
    result = launch(tmp_path, 'dist_train.sh', 'config.py', '2')
    assert f'PYTHONPATH={tmp_path}\n' in result.stdout


def test_an_installed_wheel_adds_nothing_to_the_path(launch, tmp_path):
    package = tmp_path / 'site-packages' / 'mmirnet'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    result = launch(package / '.mim', 'dist_train.sh', 'config.py', '2')
    assert 'PYTHONPATH=\n' in result.stdout
    assert str(package / '.mim' / 'tools' / 'train.py') in result.stdout


def test_one_node_needs_no_port(launch, tmp_path):
    arguments = ['config.py', 'a.pth', '3', '--out', 'a b.pkl']
    words = launch(tmp_path, 'dist_test.sh', *arguments).stdout.splitlines()
    assert 'THREADS=1' in words
    assert '--standalone' in words
    assert words[words.index('--nproc_per_node') + 1] == '3'
    script = words.index(str(tmp_path / 'tools' / 'test.py'))
    assert words[script + 1 :] == [
        'config.py',
        'a.pth',
        '--out',
        'a b.pkl',
        '--launcher',
        'pytorch',
    ]


def test_openmmlabs_variables_describe_several_nodes(launch, tmp_path):
    result = launch(
        tmp_path,
        'dist_train.sh',
        'config.py',
        '8',
        NNODES='4',
        NODE_RANK='3',
        MASTER_ADDR='10.1.1.1',
        PORT='1234',
    )
    words = result.stdout.splitlines()
    assert '--standalone' not in words
    for option, value in {
        '--nnodes': '4',
        '--node_rank': '3',
        '--master_addr': '10.1.1.1',
        '--master_port': '1234',
        '--nproc_per_node': '8',
    }.items():
        assert words[words.index(option) + 1] == value


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_more_processes_than_gpus_start_nothing(launch, tmp_path, script):
    arguments = ['config.py', '3'] if script == 'dist_train.sh' else ['c', 'p', '3']
    enough = launch(tmp_path, script, *arguments, GPUS_SEEN='3')
    assert '--nproc_per_node' in enough.stdout
    result = launch(tmp_path, script, *arguments, GPUS_SEEN='2')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr.count('\n') == 1
    assert result.stderr.startswith('error: N = 3 processes, but this machine has 2')


@pytest.mark.parametrize('number', ['0', '-1', 'two', '1.5', ''])
def test_n_must_be_a_number(launch, tmp_path, number):
    result = launch(tmp_path, 'dist_train.sh', 'config.py', number)
    assert result.returncode == 2
    assert f"N must be a number of processes, got '{number}'" in result.stderr


def test_slurm_train_asks_for_its_tasks(launch, tmp_path):
    executable(tmp_path / 'bin' / 'srun', '#!/usr/bin/env bash\nprintf "%s\\n" "$@"')
    result = launch(
        tmp_path,
        'slurm_train.sh',
        'gpus',
        'job',
        'config.py',
        'work dir',
        '--amp',
        GPUS='16',
        SRUN_ARGS='--time=10 --quiet',
    )
    python = str(tmp_path / 'bin' / 'python')
    assert result.stdout.splitlines() == [
        '-p',
        'gpus',
        '--job-name=job',
        '--gres=gpu:8',
        '--ntasks=16',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        '--time=10',
        '--quiet',
        python,
        '-u',
        str(tmp_path / 'tools' / 'train.py'),
        'config.py',
        '--work-dir',
        'work dir',
        '--amp',
        '--launcher',
        'slurm',
    ]


def test_a_mistake_ends_with_one_line_and_code_2(tmp_path):
    result = call(sys.executable, TOOLS / 'test.py', 'absent.py', 'absent.pth')
    assert result.returncode == 2
    assert result.stderr == 'error: CONFIG absent.py: there is no file absent.py\n'


#: Every tool with ``--cfg-options``, and the arguments that it needs.
CONFIGURED = {
    'analysis/summary.py': ['c.py'],
    'benchmarks/runner_throughput.py': ['mmirnet::irnet/resnet20_bireal_digits.py'],
    'deploy/export_onnx.py': ['c.py', 'x.pth', 'x.onnx'],
    'deploy/pack.py': ['c.py', 'x.pth', 'x.safetensors'],
    'experiments/run.py': ['c.py'],
    'test.py': ['c.py', 'x.pth'],
    'train.py': ['c.py'],
}


def test_every_tool_with_options_is_tried():
    found = {p for p in PROGRAMS if "'--cfg-options'" in p.read_text()}
    assert {p.relative_to(TOOLS).as_posix() for p in found} == CONFIGURED.keys()


@pytest.mark.parametrize(('tool', 'arguments'), CONFIGURED.items())
def test_an_option_without_a_value_is_one_line(tool, arguments):
    result = call(python(), TOOLS / tool, *arguments, '--cfg-options', 'a=1', 'foo')
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last == 'error: --cfg-options foo: write KEY=VALUE'
    assert 'Traceback' not in result.stderr


#: What a tool needs beside OpenMMLab, and arguments with which it gets there.
NEEDS = [
    ('analysis/plot.py', ['--method', '--out', 'x'], 'matplotlib', 'matplotlib'),
    ('deploy/pack.py', ['c.py', 'x.pth', 'x'], 'safetensors', 'safetensors'),
    ('deploy/export_onnx.py', ['CONFIG', 'PACKED', 'x'], 'onnx', 'onnx onnxruntime'),
    ('train.py', ['CONFIG'], 'sklearn', 'scikit-learn'),
]


@pytest.mark.parametrize(('tool', 'arguments', 'package', 'pip'), NEEDS)
def test_a_missing_package_is_named_with_its_command(
    tool, arguments, package, pip, tmp_path
):
    known = dict(
        CONFIG=str(ROOT / 'configs/irnet/resnet20_bireal_digits.py'),
        PACKED=str(fetch('resnet20_bireal_digits')),
    )
    words = [str(TOOLS / tool), *(known.get(word, word) for word in arguments)]
    code = f"""
import runpy, sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *a: None if name == {package!r} else find(name, *a)
sys.argv = {words}
runpy.run_path({words[0]!r}, run_name='__main__')
"""
    result = subprocess.run(
        [python(), '-c', code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and last.endswith(f': pip install {pip}'), last


#: Every tool that needs OpenMMLab, and arguments that it takes.
ALL = {
    'analysis/plot.py': ['--method'],
    'analysis/report.py': ['run'],
    'analysis/summary.py': ['config.py', '--cfg-options', 'a=1', 'b=2'],
    'convert/adabin_official.py': ['a.pth', 'b.pth'],
    'convert/irnet_official.py': ['a.pth', 'b.pth', '--arch', 'resnet20'],
    'convert/reactnet_official.py': ['a.pth', 'b.pth'],
    'deploy/export_onnx.py': ['config.py', 'a.pth', 'a.onnx'],
    'deploy/pack.py': ['config.py', 'a.pth', 'a.safetensors'],
    'experiments/readme.py': [],
    'experiments/run.py': ['config.py'],
    'infer.py': ['a.png', '--model', 'resnet20_bireal_digits'],
    'test.py': ['config.py', 'a.pth'],
    'train.py': ['config.py', '--cfg-options', 'a=1'],
    'zoo/metafile.py': [],
    'zoo/publish.py': ['config.py', 'a.pth'],
}


@pytest.mark.parametrize(('tool', 'arguments'), ALL.items())
def test_without_openmmlab_a_tool_says_what_to_install(tool, arguments, tmp_path):
    words = [str(TOOLS / tool), *arguments]
    code = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
missing = ('mmengine', 'mmcv', 'mmpretrain')
importlib.util.find_spec = lambda name, *a: None if name in missing else find(name, *a)
sys.modules.update(dict.fromkeys(missing))
sys.argv = {words}
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: mmirnet needs mmengine>=')
    assert ": pip install 'mmengine>=" in line


def test_every_tool_is_tried():
    own = {'_torchrun.py', 'make_imagenet_sample.py', 'prepare_fashion_mnist.py'}
    own |= {'prepare_data.py'}
    own |= {'deploy/run.py'}  # for machines without OpenMMLab
    found = {path.relative_to(TOOLS).as_posix() for path in TOOLS.rglob('*.py')}
    assert found == own | ALL.keys() | {f for f in found if f.startswith('benchmarks')}


def test_tools_are_called_what_they_are():
    """In messages, docstrings and the documentation."""
    named = re.compile(r'tools/[\w/]+\.(?:py|sh)')
    files = [
        *ROOT.glob('mmirnet/**/*.py'),
        *ROOT.glob('docs/**/*.md'),
        ROOT / 'README.md',
    ]
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in named.findall(path.read_text())
        if not (ROOT / name).is_file()
    }
    assert not wrong
