"""A run of seconds on a few digits, for tests of the tools."""

import os
import sys
from pathlib import Path

import warm_python

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'

#: Seconds until a process is taken to hang, however busy the machine is.
PATIENCE = 600

#: Ranks times batch size do not divide it.
TEST_IMAGES = 27


#: In front of the code of a process that needs little of mmirnet: without MMEngine it
#: imports neither torch nor OpenMMLab.
LIGHT = """
import importlib.util
_find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: name != 'mmengine' and _find(name, *a)
"""


def small_config(folder, extra=''):
    """Writes a config of two epochs; the name is the folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{folder.name}.py'
    path.write_text(f"""
_base_ = '{ROOT}/configs/irnet/resnet20_bireal_digits.py'
train_dataloader = dict(batch_size=16, dataset=dict(indices=64))
val_dataloader = dict(batch_size=4, dataset=dict(indices={TEST_IMAGES}))
test_dataloader = dict(batch_size=4, dataset=dict(indices={TEST_IMAGES}))
train_cfg = dict(max_epochs=2)
randomness = dict(seed=0)
experiment_name = '{folder}'.replace('/', '-')
{extra}
""")
    return path


def environment(**variables):
    """The environment for a tool: this Python is the active one."""
    here = Path(sys.executable).parent
    return {
        **os.environ,
        'PATH': f'{here}{os.pathsep}{os.environ["PATH"]}',
        'VIRTUAL_ENV': str(here.parent),
        'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests" / "helpers"}',
        **variables,
    }


def warm(**variables):
    """The same with a Python that has imported mmirnet already, also for torchrun."""
    plain = environment()
    program = warm_python.python()
    path = f'{Path(program).parent}{os.pathsep}{plain["PATH"]}'
    return plain | dict(PATH=path, PYTHON_EXEC=program) | variables
