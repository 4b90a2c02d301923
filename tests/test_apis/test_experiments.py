import contextlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, init_default_scope
from mmpretrain.registry import MODELS
from small_run import ROOT, environment, small_config

from mmirnet.analysis.readme import description
from mmirnet.apis import experiments
from mmirnet.binary import binary_layers
from mmirnet.engine.speed import precision
from mmirnet.errors import ConfigError, MmirnetError

ABLATION = ROOT / 'configs/ablation'
NAMES = sorted(path.stem for path in ABLATION.glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_ablations_change_nothing_but_model_and_schedule_of_t(name):
    cfg, irnet = (Config.fromfile(ABLATION / f'{n}.py') for n in (name, 'irnet'))
    init_default_scope('mmpretrain')
    layers = [layer for _, layer in binary_layers(MODELS.build(cfg.model))]
    assert bool(layers) != name.startswith('full_precision')
    changed = {
        key for key in cfg.keys() | irnet.keys() if cfg.get(key) != irnet.get(key)
    }
    assert changed <= {'model', 'custom_hooks'}
    assert bool(changed) == (name != 'irnet')
    assert description(ABLATION / f'{name}.py')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    config = small_config(folder / 'small', 'val_evaluator = dict(topk=(1,))')
    options = {'train_cfg.max_epochs': 1}
    results = folder / 'results.jsonl'
    new = experiments.run_all(
        [config], [3], results, work_dir=folder / 'runs', cfg_options=options
    )
    return config, results, options, new


class TestRunAll:
    def test_a_line_says_what_it_was_made_from(self, made):
        config, results, options, (new,) = made
        assert experiments.read_results(results) == [new]
        assert (new['config'], new['seed'], new['epochs']) == ('small', 3, 1)
        assert new['curve'] == [new['accuracy']]
        assert new['digest'] == experiments.digest(config, options)
        assert {'torch', 'mmirnet'} <= new['versions'].keys()
        assert (new['best'], new['best_epoch']) == (new['accuracy'], 1)
        assert (new['recipe_epochs'], new['precision']) == (2, 'float32')
        assert new['copy'] is None
        assert new['command'] == (
            f'python tools/experiments/run.py {config} --seeds 3 '
            '--cfg-options train_cfg.max_epochs=1'
        )

    def test_what_is_done_is_skipped(self, made, monkeypatch):
        config, results, options, _ = made
        monkeypatch.setattr(experiments, '_run_alone', pytest.fail)
        again = experiments.run_all([config], [3], results, cfg_options=options)
        assert again == []

    def test_other_settings_are_another_run(self, made):
        config, _, options, _ = made
        assert experiments.digest(config) != experiments.digest(config, options)
        assert experiments.recipe(config) != experiments.recipe(config, options)

    @pytest.mark.parametrize(
        'options',
        [
            {
                'optim_wrapper.type': 'AmpOptimWrapper',
                'optim_wrapper.dtype': 'bfloat16',
            },
            {'default_hooks.compile.type': 'CompileHook'},
            {'default_hooks.tf32.allow': True},
            {'train_cfg.type': 'CapturedEpochLoop', 'val_cfg.type': 'CapturedValLoop'},
            {'default_hooks.checkpoint.interval': 10},
        ],
    )
    def test_how_it_is_computed_is_no_other_recipe(self, made, options):
        config, _, before, (new,) = made
        both = before | options
        assert experiments.digest(config, both) != new['digest']
        assert experiments.recipe(config, both) == new['recipe']


@pytest.mark.parametrize(
    ('setting', 'line'),
    [
        (
            'train_cfg = dict(_delete_=True, by_epoch=False, max_iters=9)',
            'train_cfg has no max_epochs',
        ),
        ('val_evaluator = dict(topk=(5,))', "add dict.type='Accuracy', topk=.1,.."),
        ('val_cfg = None', 'results hold accuracy/top1, which'),
    ],
)
def test_a_run_without_a_result_is_refused_before_it_starts(
    tmp_path, monkeypatch, setting, line
):
    config = small_config(tmp_path / 'small', setting)
    monkeypatch.setattr(experiments, '_run_alone', pytest.fail)
    with pytest.raises(ConfigError, match=line):
        experiments.run_all([config], [0], tmp_path / 'results.jsonl')


def test_a_seed_that_is_named_twice_is_run_once(tmp_path, monkeypatch):
    config = small_config(tmp_path / 'small')
    monkeypatch.setattr(
        experiments,
        '_run_alone',
        lambda config, seed, *_: dict(config=config, accuracy=1.0, seconds=1.0),
    )
    results = tmp_path / 'results.jsonl'
    assert len(experiments.run_all([config], [3, 3], results)) == 1


def test_configs_without_hooks_or_validation_have_a_recipe(tmp_path):
    config = tmp_path / 'bare.py'
    config.write_text("model = dict(type='ImageClassifier')")
    assert experiments.recipe(config) == experiments.recipe(config)


def test_a_killed_queue_leaves_no_process_behind(tmp_path):
    config = str(small_config(tmp_path / 'small', 'val_evaluator = dict(topk=(1,))'))
    command = [
        *(sys.executable, str(ROOT / 'tools/experiments/run.py'), config),
        *('--seeds', '0', '--results', str(tmp_path / 'results.jsonl')),
        *('--work-dir', str(tmp_path / 'runs')),
        *('--cfg-options', 'train_cfg.max_epochs=100000'),
    ]
    queue = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: list((tmp_path / 'runs').glob('*/epoch_*.pth')))
        os.killpg(queue.pid, signal.SIGTERM)
        queue.wait(60)
        wait_for(lambda: not is_group(queue.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(queue.pid, signal.SIGKILL)
    assert list((tmp_path / 'runs').glob('*/preempted_iter_*.pth'))


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_group(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_whose_process_dies_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, '_send_run', _die)
    with pytest.raises(MmirnetError, match='ended with exit status 3'):
        experiments._run_alone('config', 0, str(tmp_path), None)


def _die(*_):
    os._exit(3)


def test_an_interrupted_run_ends_as_the_unbroken_one(tmp_path):
    config = str(small_config(tmp_path / 'small', 'val_evaluator = dict(topk=(1,))'))
    whole = experiments.run_one(config, 0, str(tmp_path / 'whole'), None)
    (folder,) = (tmp_path / 'whole').iterdir()
    first = torch.load(folder / 'epoch_1.pth', weights_only=False)
    history = first['message_hub']['log_scalars']['train/time']
    history._log_history += 1000.0  # as if an iteration of it had taken long
    made_with = first['message_hub']['runtime_info']['made_with']
    made_with.update(devices=['elsewhere'], precisions=['bfloat16'])
    broken = tmp_path / 'broken' / folder.name
    broken.mkdir(parents=True)
    torch.save(first, broken / 'epoch_1.pth')
    (log,) = folder.glob('*/vis_data/scalars.json')
    lines = log.read_text().splitlines(keepends=True)
    half = next(i for i, text in enumerate(lines) if 'accuracy' in text) + 1
    part = broken / '20200101_000000' / 'vis_data'
    part.mkdir(parents=True)
    (part / 'scalars.json').write_text(''.join(lines[:half]))

    line = experiments.run_one(config, 0, str(tmp_path / 'broken'), None)

    assert line['device'] == f'elsewhere, {whole["device"]}'
    assert line['precision'] == 'bfloat16, float32'
    assert line['seconds'] > 1000 > whole['seconds'] > 0
    timed = {'seconds', 'device', 'precision', 'versions', 'date'}
    assert {k: v for k, v in line.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    states = [
        torch.load(run / 'epoch_2.pth', weights_only=False)['state_dict']
        for run in (folder, broken)
    ]
    assert all(
        torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True)
    )


@pytest.mark.parametrize(
    'wrapper, wanted',
    [('OptimWrapper', 'float32'), ('Bf16OptimWrapper', 'bfloat16')],
)
def test_precision(wrapper, wanted):
    network = torch.nn.Linear(1, 1)
    spec = dict(type=wrapper, optimizer=torch.optim.SGD(network.parameters()))
    runner = SimpleNamespace(model=network, optim_wrapper=OPTIM_WRAPPERS.build(spec))
    assert precision(runner) == wanted


def test_failures_are_named_when_all_have_run(tmp_path):
    config = small_config(tmp_path / 'broken', "model = dict(type='NoSuchModel')")
    with pytest.raises(MmirnetError, match=r'broken seed 0: .*NoSuchModel'):
        experiments.run_all([config], [0], tmp_path / 'r.jsonl', work_dir=tmp_path)
    assert experiments.read_results(tmp_path / 'r.jsonl') == []


def test_no_run_at_a_time_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='--jobs 0'):
        experiments.run_all([], [0], tmp_path / 'r.jsonl', jobs=0)


def test_damaged_results(tmp_path):
    (tmp_path / 'r.jsonl').write_text('{}\n{"config"\n')
    with pytest.raises(ValueError, match=r'r\.jsonl, line 2'):
        experiments.read_results(tmp_path / 'r.jsonl')
