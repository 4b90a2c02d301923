import hashlib
import json
import shutil

import pytest
from mmengine.runner import CheckpointLoader
from small_run import small_config
from zoo_fixtures import alone  # noqa: F401

from mmirnet import apis
from mmirnet.apis import publishing as module
from mmirnet.apis.publishing import publish, short_log, training_command
from mmirnet.engine.checkpoint import load_checkpoint_file
from mmirnet.engine.config import load_config
from mmirnet.errors import PackedFileError, ZooError
from mmirnet.packed import read
from mmirnet.zoo import fetch, metafile

pytestmark = pytest.mark.usefixtures('small_resnets')

OPTIONS = {
    'train_cfg.max_epochs': 3,
    'param_scheduler.T_max': 3,
    'randomness.seed': 5,
    'train_dataloader.batch_size': 32,
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A trained run: its config and its working folder."""
    folder = tmp_path_factory.mktemp('trained')
    config = small_config(folder)
    work_dir = folder / 'run'  # where MMEngine writes the config once more
    apis.train(
        str(config),
        work_dir=str(work_dir),
        compile=True,
        in_memory=True,
        cfg_options=OPTIONS | {'default_hooks.compile.backend': 'eager'},
    )
    return str(config), work_dir


def test_publish(trained, tmp_path, monkeypatch):
    config, folder = trained
    zoo = tmp_path / 'zoo'
    report = publish(config, str(folder / 'epoch_3.pth'), zoo)
    index = json.loads((zoo / 'index.json').read_text())
    assert index['format'] == 1
    (name, entry), *others = index['models'].items()
    assert not others and name == folder.parent.name
    file = zoo / entry['file']
    assert entry['file'] in report
    top1 = entry['metrics']['accuracy/top1'], entry['runtime_metrics']['accuracy/top1']
    assert (
        'Digits, accuracy/top1 {:.2f} in simulation, {:.2f} on'.format(*top1) in report
    )
    assert {p.name for p in zoo.iterdir()} == {
        'index.json',
        entry['file'],
        entry['log'],
    }

    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert (entry['sha256'], entry['bytes']) == (digest, len(data))
    assert entry['file'] == f'{name}-{digest[:8]}.safetensors'
    assert entry['log'] == f'{name}-{digest[:8]}.jsonl'
    assert read(file).classes == [str(i) for i in range(10)]
    metrics = apis.evaluate(config, str(file), work_dir=str(tmp_path))
    assert entry['metrics'] == pytest.approx(metrics, abs=1e-4)
    assert entry['runtime_metrics'] == entry['metrics']
    assert 'copy' not in entry
    assert entry['dataset'] == 'Digits'  # the name says nothing
    assert entry['config'] == f'{name}/{name}.py'
    meta = load_checkpoint_file(str(folder / 'epoch_3.pth'))['meta']
    assert (entry['epochs'], entry['seed']) == (3, 5)
    assert entry['date'].replace('-', '') == meta['time'][:8]

    # With 8-bit ends, the file of the same model is smaller.
    publish(config, str(folder / 'epoch_3.pth'), tmp_path / 'small', ends='int8')
    (small,) = json.loads((tmp_path / 'small/index.json').read_text())[
        'models'
    ].values()
    assert small['bytes'] < entry['bytes']
    kinds = {op['op'] for op in read(tmp_path / 'small' / small['file']).graph}
    assert any('int8' in kind for kind in kinds), kinds
    assert small['runtime_metrics'] == small['metrics']
    assert (small['ends'], small['fp32_metrics']) == ('int8', entry['metrics'])
    assert 'ends' not in entry and 'fp32_metrics' not in entry

    # Another checkpoint takes its place, and other models stay.
    index['models']['other'] = entry
    (zoo / 'index.json').write_text(json.dumps(index))
    publish(config, str(folder / 'epoch_2.pth'), zoo, command='by hand')
    models = json.loads((zoo / 'index.json').read_text())['models']
    assert models['other'] == entry
    assert (models[name]['epochs'], models[name]['command']) == (2, 'by hand')
    assert {p.name for p in zoo.iterdir()} == {
        'index.json',
        models[name]['file'],
        models[name]['log'],
    }
    assert models[name]['file'] != entry['file']

    # A failure changes nothing.
    before = {p.name: p.read_bytes() for p in zoo.iterdir()}
    monkeypatch.setattr(module, 'evaluate', lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(config, str(folder / 'epoch_3.pth'), zoo)
    assert {p.name: p.read_bytes() for p in zoo.iterdir()} == before


def test_a_published_model_is_fetched_by_its_name(trained, tmp_path, monkeypatch):
    config, folder = trained
    publish(config, str(folder / 'epoch_3.pth'), tmp_path / 'zoo')
    monkeypatch.setenv('MMIRNET_ZOO', str(tmp_path / 'zoo'))
    path = fetch(folder.parent.name)
    assert path.parent == tmp_path / 'zoo'
    loaded = CheckpointLoader.load_checkpoint(f'irnet://{folder.parent.name}')
    assert 'backbone.conv1.weight' in loaded['state_dict']
    with pytest.raises(ZooError, match="no model 'absent'"):
        fetch('absent')


@pytest.mark.parametrize('name', ['my net', 'сеть', '-x'])
def test_a_name_that_no_index_can_have_is_refused_first(trained, tmp_path, name):
    config = shutil.copy(trained[0], tmp_path / f'{name}.py')
    with pytest.raises(ZooError, match=f'{name!r} is no name of a model'):
        publish(str(config), 'absent.pth', tmp_path / 'zoo')
    assert not (tmp_path / 'zoo').exists()


def test_what_the_index_cannot_hold_is_not_written(trained, tmp_path, monkeypatch):
    config, folder = trained
    monkeypatch.setattr(module, 'evaluate', lambda *_, **__: {'f1': float('nan')})
    with pytest.raises(ZooError, match=r'f1|metrics'):
        publish(config, str(folder / 'epoch_3.pth'), tmp_path / 'zoo')
    assert not list((tmp_path / 'zoo').iterdir())


def test_the_command_trains_the_same(trained, tmp_path):
    config, folder = trained
    text = load_checkpoint_file(str(folder / 'epoch_3.pth'))['meta']['cfg']
    command, _, options = training_command(config, text).partition(' --cfg-options ')
    assert command == f'python tools/train.py {config} --in-memory --compile'
    assert dict(option.split('=') for option in options.split()) == {
        key: str(value)
        for key, value in OPTIONS.items() | {('default_hooks.compile.backend', 'eager')}
    }


def test_the_command_without_options(trained):
    config, _ = trained
    text = load_config(config, None, 'none').pretty_text
    assert training_command(config, text) == f'python tools/train.py {config}'


def test_the_command_of_a_resumed_run_is_that_of_the_first_part(trained):
    config, _ = trained
    cfg = load_config(config, None, 'none')
    cfg.resume, cfg.load_from = True, 'epoch_1.pth'
    command = training_command(config, cfg.pretty_text)
    assert command == f'python tools/train.py {config}'
    cfg.resume = False
    command = training_command(config, cfg.pretty_text)
    assert command.endswith(' --cfg-options load_from=epoch_1.pth')


def test_the_log_has_a_line_an_epoch(trained):
    _, folder = trained
    lines = [json.loads(line) for line in short_log(folder).splitlines()]
    assert [line['epoch'] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line.keys() == {'epoch', 'loss', 'lr', 't', 'k', 'accuracy/top1'}
    full = next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    losses = [json.loads(line)['loss'] for line in full if '"epoch": 2' in line]
    assert lines[1]['loss'] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_what_cannot_be_published(trained, tmp_path):
    config, folder = trained
    checkpoint = str(folder / 'epoch_3.pth')
    packed = tmp_path / 'packed.safetensors'
    publish(config, checkpoint, tmp_path / 'zoo')
    shutil.copy(next((tmp_path / 'zoo').glob('*.safetensors')), packed)
    with pytest.raises(ValueError, match='has no training run'):
        publish(config, str(packed), tmp_path / 'zoo', log=folder)
    shutil.copy(checkpoint, tmp_path / 'alone.pth')
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot write'):
        publish(config, 'absent.pth', tmp_path / 'file')
    with pytest.raises(FileNotFoundError, match='no log'):
        publish(config, str(tmp_path / 'alone.pth'), tmp_path / 'zoo')
    (tmp_path / 'zoo' / 'index.json').write_text('{"format": 2}')
    with pytest.raises(ValueError, match='has format 2, this version reads 1'):
        publish(config, checkpoint, tmp_path / 'zoo')


def test_the_metafile_is_that_of_the_checkouts_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(metafile, 'ROOT', tmp_path)
    monkeypatch.setattr(metafile, 'write', lambda folder: f'{folder}/metafile.yml')
    name = 'resnet20_bireal_digits'
    written = module._write_metafile(tmp_path / 'zoo', name)
    assert written == 'irnet/metafile.yml: written'
    assert 'it lists' in module._write_metafile(tmp_path / 'elsewhere', name)
    assert 'none lists mine' in module._write_metafile(tmp_path / 'zoo', 'mine')


def test_a_runtime_that_predicts_something_else_is_refused(
    trained, tmp_path, monkeypatch
):
    config, folder = trained
    monkeypatch.setattr(
        module, 'evaluate', lambda *_, runtime, **__: {'top1': 97.0 if runtime else 98}
    )
    with pytest.raises(PackedFileError, match=r'top1 .* is 98\.0 in simul.* 97\.0 on'):
        publish(config, str(folder / 'epoch_3.pth'), tmp_path / 'zoo')
    assert not list((tmp_path / 'zoo').iterdir())
