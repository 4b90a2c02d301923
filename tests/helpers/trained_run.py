"""A short run with statistics, for what draws and reports runs."""

from pathlib import Path

import pytest
from small_run import small_config

from mmirnet.apis.training import train

#: Markup in names that a page must escape.
CLASSES = [f'<b>{i}' for i in range(10)]


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> Path:
    """Two epochs on a few digits, with statistics; its folder has a name of markup."""
    folder = tmp_path_factory.mktemp('trained')
    metainfo = dict(classes=CLASSES)
    extra = f"""
custom_hooks = [
    dict(type='EDEHook', t_min=0.1, t_max=10),
    dict(type='BinaryStatsHook', interval=2),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1), logger=dict(interval=1))
train_dataloader = dict(dataset=dict(metainfo={metainfo}))
val_dataloader = dict(dataset=dict(metainfo={metainfo}))
test_dataloader = dict(dataset=dict(metainfo={metainfo}))
"""
    run_dir = folder / 'run <i>'
    config = small_config(folder / 'config')
    # A key may stand in a file once.
    derived = folder / 'small.py'
    derived.write_text(f"_base_ = '{config}'\n{extra}")
    train(str(derived), work_dir=str(run_dir))
    return run_dir
