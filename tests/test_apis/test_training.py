import json
import logging
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmpretrain.registry import DATASETS
from PIL import Image
from small_run import ROOT, TEST_IMAGES, small_config

from mmirnet import apis
from mmirnet.apis import training
from mmirnet.apis.command_line import one_line_errors
from mmirnet.apis.evaluation import json_value
from mmirnet.apis.packing import pack_checkpoint
from mmirnet.engine import Bf16OptimWrapper, checkpoint, weights
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import build_model
from mmirnet.engine.launch import RANK_VARIABLES

pytestmark = pytest.mark.usefixtures('small_resnets')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A trained run: its config and its working folder."""
    folder = tmp_path_factory.mktemp('trained')
    config = small_config(folder)
    apis.train(str(config), work_dir=str(folder))
    return config, folder


def test_training_leaves_checkpoints_and_scalars(trained):
    _, folder = trained
    assert (folder / 'epoch_2.pth').is_file()
    scalars = next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert [json.loads(line)['t'] for line in scalars if '"t"' in line] == [0.1, 1.0]


def test_evaluation_writes_metrics_or_predictions(trained, tmp_path):
    config, folder = trained
    arguments = dict(checkpoint=str(folder / 'epoch_2.pth'), work_dir=str(tmp_path))
    metrics = apis.evaluate(
        str(config), out=str(tmp_path / 'm.json'), out_item='metrics', **arguments
    )
    assert load(tmp_path / 'm.json') == metrics
    apis.evaluate(str(config), out=str(tmp_path / 'p.pkl'), **arguments)
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    right = [bool(p['pred_label'] == p['gt_label']) for p in predictions]
    assert len(right) == TEST_IMAGES
    assert metrics['accuracy/top1'] == pytest.approx(100 * np.mean(right))


def test_tta_averages_an_image_and_its_mirror(trained, tmp_path):
    config, folder = trained
    checkpoint = str(folder / 'epoch_2.pth')
    scores = {}
    mirror = [dict(type='RandomFlip', prob=1.0), dict(type='PackInputs')]
    for name, options in {
        'plain': {},
        'mirror': {'cfg_options': {'test_dataloader.dataset.pipeline': mirror}},
        'tta': {'tta': True},
        'own views': {
            'tta': True,
            'cfg_options': {
                'test_dataloader.dataset.pipeline': [
                    dict(
                        type='TestTimeAug',
                        transforms=[
                            [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
                            [dict(type='PackInputs')],
                        ],
                    )
                ]
            },
        },
    }.items():
        out = tmp_path / f'{name}.pkl'
        config = small_config(tmp_path / name)
        apis.evaluate(
            str(config), checkpoint, work_dir=str(tmp_path), out=str(out), **options
        )
        predictions = pickle.loads(out.read_bytes())
        scores[name] = torch.stack([p['pred_score'] for p in predictions])
    torch.testing.assert_close(scores['tta'], (scores['plain'] + scores['mirror']) / 2)
    assert not torch.equal(scores['tta'], scores['plain'])
    assert torch.equal(scores['own views'], scores['tta'])


def test_tta_of_wrapped_data_keeps_the_models_own_preprocessor(trained, tmp_path):
    """Whatever wraps the data, and with settings over those of the model."""
    config, folder = trained
    cfg = Config.fromfile(config)
    dataset = dict(cfg.test_dataloader.dataset, indices=8)
    preprocessor = dict(mean=[9.0] * 3, std=[50.0] * 3)
    options = {
        'model.data_preprocessor': preprocessor,
        'model.head.topk': (1, 2),
        'in_memory': True,
    }
    scores = []
    for name, data in {
        'plain': dataset,
        'joined': dict(type='ConcatDataset', datasets=[dataset]),
        'repeated': dict(type='RepeatDataset', times=1, dataset=dataset),
    }.items():
        path = tmp_path / f'{name}.py'
        path.write_text(
            f"_base_ = '{config}'\nexperiment_name = '{path}'.replace('/', '-')\n"
            f'test_dataloader = dict(dataset=dict(_delete_=True, **{dict(data)}))\n'
        )
        apis.evaluate(
            str(path),
            str(folder / 'epoch_2.pth'),
            work_dir=str(tmp_path),
            out=str(tmp_path / 'p.pkl'),
            tta=True,
            cfg_options=options,
        )
        predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
        scores.append(torch.stack([p['pred_score'] for p in predictions]))
    model = build_model(Config.fromfile(config), str(folder / 'epoch_2.pth'))
    digits = torch.stack([item['inputs'] for item in DATASETS.build(dataset)])
    with torch.no_grad():
        wanted = sum(
            model((images.float() - 9) / 50).softmax(1)
            for images in (digits, digits.flip(-1))
        )
    for got in scores:
        torch.testing.assert_close(got, wanted / 2)


def test_tta_needs_a_pipeline_that_it_can_mirror(trained, tmp_path):
    config, folder = trained
    options = {'test_dataloader.dataset.pipeline': [dict(type='Collect', keys=['img'])]}
    with pytest.raises(ValueError, match=r'--tta mirrors .* Digits has not'):
        apis.evaluate(
            str(config),
            str(folder / 'epoch_2.pth'),
            work_dir=str(tmp_path),
            tta=True,
            cfg_options=options,
        )


def test_metrics_of_all_kinds_are_written(trained, tmp_path):
    config, folder = trained
    evaluators = [dict(type='Accuracy'), dict(type='ConfusionMatrix')]
    arguments = dict(work_dir=str(tmp_path), cfg_options={'test_evaluator': evaluators})
    for name in ('m.json', 'new/m.yaml', 'm.pkl'):
        metrics = apis.evaluate(
            str(config),
            str(folder / 'epoch_2.pth'),
            out=str(tmp_path / name),
            out_item='metrics',
            **arguments,
        )
        matrix = metrics['confusion_matrix/result']
        assert int(matrix.sum()) == TEST_IMAGES
        written = load(tmp_path / name)
        assert json_value(written) == json_value(metrics)


def test_results_become_plain():
    value = {
        1: torch.tensor([1.5]),
        'a': {'b': (np.int64(2), np.zeros((1, 2)), None, True)},
        'c': {torch.float16},
    }
    assert json_value(value) == {
        '1': [1.5],
        'a': {'b': [2, [[0.0, 0.0]], None, True]},
        'c': ['torch.float16'],
    }


@pytest.mark.parametrize('item', [None, 'metrics'])
def test_where_results_cannot_go_is_said_first(trained, tmp_path, item):
    (tmp_path / 'file').write_text('')
    name = 'm.json' if item else 'm.pkl'
    with pytest.raises(OSError, match=f'file/{name}'):
        apis.evaluate(
            'absent.py',
            'absent.pth',
            out=str(tmp_path / 'file' / name),
            out_item=item,
        )
    (tmp_path / 'kept.pkl').write_text('before')
    with pytest.raises(FileNotFoundError, match='absent'):
        apis.evaluate('absent.py', 'absent.pth', out=str(tmp_path / 'kept.pkl'))
    assert (tmp_path / 'kept.pkl').read_text() == 'before'


def test_the_validation_set_stands_in_for_a_test_set(trained, tmp_path, caplog):
    config, folder = trained
    options = {'test_dataloader': None, 'test_evaluator': None, 'test_cfg': None}
    arguments = dict(checkpoint=str(folder / 'epoch_2.pth'), work_dir=str(tmp_path))
    metrics = apis.evaluate(str(config), cfg_options=options, **arguments)
    assert 'val_dataloader is used' in caplog.text
    assert metrics == apis.evaluate(str(config), **arguments)
    options |= {'val_dataloader': None}
    with pytest.raises(ValueError, match='has no test set: it needs test_dataloader'):
        apis.evaluate(str(config), cfg_options=options, **arguments)


def test_the_config_of_a_resumed_run_is_tested(trained, tmp_path):
    config, folder = trained
    arguments = dict(checkpoint=str(folder / 'epoch_2.pth'), work_dir=str(tmp_path))
    metrics = apis.evaluate(str(config), cfg_options={'resume': True}, **arguments)
    assert metrics == apis.evaluate(str(config), **arguments)


@pytest.mark.parametrize('packed', [False, True])
def test_evaluation_compares_the_classes_by_name(trained, tmp_path, packed):
    config, folder = trained
    checkpoint = str(folder / 'epoch_2.pth')
    if packed:
        out = tmp_path / 'packed.safetensors'
        pack_checkpoint(str(config), checkpoint, out)
        checkpoint = str(out)
    # As many names: the number of classes is right.
    shifted = dict(classes=tuple('1234567890'))
    with pytest.raises(ValueError) as caught:
        apis.evaluate(
            str(config),
            checkpoint,
            work_dir=str(tmp_path),
            cfg_options={'test_dataloader.dataset.metainfo': shifted},
        )
    whose = 'packed file' if packed else 'checkpoint'
    assert str(caught.value).startswith(
        f'test_dataloader.dataset has the classes of the {whose} in another order: '
        f"label 0 is '1' in test_dataloader.dataset and '0' in the {whose}"
    )


@pytest.mark.parametrize('resume', ['auto', 'path'])
def test_resume_continues(trained, tmp_path, resume):
    _, folder = trained
    config = small_config(tmp_path)
    (tmp_path / 'epoch_2.pth').write_bytes((folder / 'epoch_2.pth').read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    runner = apis.train(
        str(config),
        work_dir=str(tmp_path),
        resume='auto' if resume == 'auto' else str(folder / 'epoch_2.pth'),
        cfg_options={'train_cfg.max_epochs': 3},
    )
    epochs = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert {json.loads(line).get('epoch') for line in epochs} == {3, None}
    assert runner.epoch == 3


def test_auto_resume_without_a_checkpoint_starts_and_says_so(tmp_path):
    config = small_config(tmp_path)
    options = {'train_cfg.max_epochs': 1}
    apis.train(str(config), work_dir=str(tmp_path), resume='auto', cfg_options=options)
    assert (tmp_path / 'epoch_1.pth').is_file()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'--resume: no checkpoint to resume from in {tmp_path}; training' in log


@pytest.mark.parametrize('resume', ['auto', 'path'])
def test_a_checkpoint_is_read_once(trained, tmp_path, monkeypatch, resume):
    config, folder = trained
    path = str(folder / 'epoch_2.pth')
    calls = []
    for name in ('check_intact', 'read_checkpoint'):
        original = getattr(checkpoint, name)

        def spy(*args, name=name, original=original):
            calls.append(name)
            return original(*args)

        for module in (checkpoint, training, weights):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, spy)
    apis.train(
        str(config),
        work_dir=str(folder if resume == 'auto' else tmp_path),
        resume='auto' if resume == 'auto' else path,
    )
    assert calls == ['check_intact', 'read_checkpoint']
    calls.clear()
    apis.evaluate(str(config), path, work_dir=str(tmp_path))
    assert calls == ['check_intact', 'read_checkpoint']


def test_weights_of_another_program_are_tested_and_fine_tuned(trained, tmp_path):
    _, folder = trained
    config = small_config(tmp_path)
    path = folder / 'epoch_2.pth'
    weights = torch.load(path)['state_dict']
    bare = {f'module.{n.removeprefix("backbone.")}': w for n, w in weights.items()}
    torch.save(dict(model=bare), tmp_path / 'other.pth')
    scores = [
        apis.evaluate(str(config), str(p), work_dir=str(tmp_path))
        for p in (path, tmp_path / 'other.pth')
    ]
    assert scores[0] == scores[1]
    runner = apis.train(
        str(config),
        work_dir=str(tmp_path),
        cfg_options={
            'load_from': str(tmp_path / 'other.pth'),
            'train_cfg.max_epochs': 0,
            'param_scheduler': [],
        },
    )
    for name, weight in runner.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_work_dir_is_no_file(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(ValueError, match=r'--work-dir .*/file is a file'):
        apis.train(str(small_config(tmp_path)), work_dir=str(tmp_path / 'file'))


def test_auto_resume_passes_over_a_checkpoint_cut_short(trained, tmp_path):
    _, folder = trained
    config = small_config(tmp_path)
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with (tmp_path / 'epoch_2.pth').open('r+b') as file:
        file.truncate(1000)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    runner = apis.train(str(config), work_dir=str(tmp_path), resume='auto')
    assert runner.cfg.load_from == str(tmp_path / 'epoch_1.pth')
    assert runner.epoch == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU')
def test_amp_on_a_cpu_is_bfloat16(tmp_path):
    config = small_config(tmp_path)
    options = {'train_cfg.max_epochs': 1}
    runner = apis.train(
        str(config), work_dir=str(tmp_path), amp=True, cfg_options=options
    )
    assert isinstance(runner.optim_wrapper, Bf16OptimWrapper)


def test_hooks_of_none_are_left_out(tmp_path):
    """Ours and MMEngine's, and the config that the run leaves says so."""
    keys = ('check', 'precise_bn', 'compile', 'timer')
    options = {f'default_hooks.{key}': None for key in keys}
    config = small_config(tmp_path)
    options['train_cfg.max_epochs'] = 1
    work_dir = str(tmp_path / 'run')
    runner = apis.train(str(config), work_dir=work_dir, cfg_options=options)
    kinds = [type(hook).__name__ for hook in runner.hooks]
    assert {'CheckHook', 'PackedPreciseBNHook', 'IterTimerHook'}.isdisjoint(kinds)
    again = load_config(f'{work_dir}/{config.name}', None, 'none')
    assert again.default_hooks.precise_bn.type == 'NoHook'


def test_training_options_reach_the_runner(tmp_path):
    config = small_config(tmp_path)
    cfg_options = {
        'train_dataloader.num_workers': 1,
        'train_cfg.max_epochs': 1,
        'auto_scale_lr.base_batch_size': 64,
        'param_scheduler': [],
    }
    runner = apis.train(
        str(config),
        work_dir=str(tmp_path),
        no_validate=True,
        auto_scale_lr=True,
        no_persistent_workers=True,
        cfg_options=cfg_options,
    )
    assert runner.val_loop is None
    assert not runner.train_dataloader.persistent_workers
    assert not runner.train_dataloader.pin_memory
    lr = runner.cfg.optim_wrapper.optimizer.lr
    assert runner.optim_wrapper.get_lr()['lr'] == [lr * 16 / 64]


def test_config_of_an_installed_package():
    cfg = load_config('mmirnet::irnet/resnet20_bireal_digits.py', None, 'none')
    assert cfg.work_dir == 'work_dirs/resnet20_bireal_digits'
    assert cfg.model.backbone.type == 'IRResNet_CIFAR'


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(config='absent.py'), FileNotFoundError, 'CONFIG absent.py'),
        (dict(config='mmirnet::irnet/absent.py'), FileNotFoundError, 'absent.py'),
        (dict(config='absent::irnet/a.py'), ValueError, 'no package absent'),
        (dict(config=__file__ + 'c'), FileNotFoundError, 'no file'),
        (dict(config=str(ROOT / 'README.md')), ValueError, r'README.md is no config'),
        (dict(resume='absent.pth'), FileNotFoundError, 'checkpoint absent.pth'),
        (dict(launcher='pytorch'), ValueError, 'RANK, WORLD_SIZE, LOCAL_RANK'),
        (
            dict(cfg_options={'train_dataloader.dataset.data_root': 'absent'}),
            FileNotFoundError,
            r"train_dataloader\.dataset\.data_root: there is no folder 'absent'",
        ),
        (
            dict(cfg_options={'model.head.num_classes': 7}),
            ValueError,
            r'train_dataloader\.dataset has 10 classes, .*num_classes is 7',
        ),
        (
            dict(cfg_options={'train_dataloader.dataset.indices': 0}),
            ValueError,
            '^train_dataloader.dataset is empty$',
        ),
        (
            dict(
                cfg_options={
                    'val_dataloader.dataset': dict(
                        type='CIFAR10', split='valid', data_root='.', _delete_=True
                    )
                }
            ),
            ValueError,
            '^val_dataloader cannot be built: .*split',
        ),
        (
            dict(cfg_options={'model.backbone.structure': 'birael'}),
            ValueError,
            "structure must be .*'birael'",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_train_refuses(tmp_path, monkeypatch, arguments, error, message):
    for name in RANK_VARIABLES['pytorch']:
        monkeypatch.delenv(name, raising=False)
    arguments = {'config': str(small_config(tmp_path)), **arguments}
    with pytest.raises(error, match=message):
        apis.train(work_dir=str(tmp_path / 'work'), **arguments)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(out_item='metrics'), '--out-item needs --out'),
        (dict(out='pred.json'), r'pred.json: the name must end in .pkl, .pickle'),
        (dict(out='m.txt', out_item='metrics'), r'm.txt: .* \.json'),
        (dict(show_dir='pictures', interval=0), '--interval 0'),
    ],
)
def test_evaluate_refuses_what_it_could_not_write(arguments, message):
    with pytest.raises(ValueError, match=message):
        apis.evaluate('config.py', 'checkpoint.pth', **arguments)


def test_auto_scale_lr_needs_a_base_batch_size(tmp_path):
    config = small_config(tmp_path)
    text = config.read_text().replace('randomness =', 'auto_scale_lr = None\nr =')
    config.write_text(text)
    with pytest.raises(ValueError, match='--auto-scale-lr needs auto_scale_lr'):
        apis.train(str(config), work_dir=str(tmp_path), auto_scale_lr=True)


@pytest.mark.parametrize(('damage', 'workers'), [(b'no image', 0), (b'', 1)])
def test_an_unreadable_image_is_named(tmp_path, capsys, damage, workers):
    for i in range(8):
        file = tmp_path / 'images' / f'class{i % 2}' / f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(file)
    file.write_bytes(damage)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    config = small_config(
        tmp_path,
        f"""
train_dataloader = dict(
    batch_size=4,
    num_workers={workers},
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='{tmp_path}/images',
        pipeline={pipeline},
    ),
)""",
    )
    logging.disable()
    with pytest.raises(SystemExit), one_line_errors():
        apis.train(str(config), work_dir=str(tmp_path), no_validate=True)
    logging.disable(logging.NOTSET)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f'error: cannot read image {file}: ')
