"""The metafile against configs, README and OpenMMLab's readers."""

import functools
import re
import runpy
import sys

import pytest
import yaml
from mmpretrain.apis.model import ModelHub, get_model, list_models
from modelindex.load_model_index import load

from mmirnet.analysis.cost.table import short
from mmirnet.zoo import metafile
from mmirnet.zoo.index import Entry, render_index

FOLDERS = tuple(metafile.COLLECTIONS)
STEMS = {
    path.stem: folder
    for folder in FOLDERS
    for path in sorted((metafile.ROOT / 'configs' / folder).glob('*.py'))
}
MODEL = Entry(
    file='resnet20_bireal_digits-0123abcd.safetensors',
    bytes=59_000,
    sha256='0123abcd' + 56 * '0',
    config='irnet/resnet20_bireal_digits.py',
    dataset='digits',
    metrics={'accuracy/top1': 97.5, 'loss': 0.1},
    epochs=30,
    seed=0,
    date='2026-11-23',
    command='python tools/train.py configs/irnet/resnet20_bireal_digits.py',
)


@pytest.fixture(scope='module')
def models():
    """The models in the files, by the name of their config."""
    found = [
        model
        for folder in FOLDERS
        for model in yaml.safe_load(metafile.metafile(folder).read_text())['Models']
    ]
    return {model['Name'].removeprefix('irnet_'): model for model in found}


@pytest.mark.parametrize('folder', FOLDERS)
def test_is_what_the_configs_give(folder):
    metafile.check(folder)


def test_every_folder_of_models_has_one():
    index = yaml.safe_load((metafile.ROOT / 'model-index.yml').read_text())
    files = [f'configs/{folder}/metafile.yml' for folder in FOLDERS]
    assert index == {'Import': files}
    others = {'_base_', 'ablation', 'ablation_cifar10', 'examples'}
    folders = {path.parent.name for path in metafile.ROOT.glob('configs/*/*.py')}
    assert folders - others == set(FOLDERS)


def test_lists_every_config(models):
    assert sorted(models) == sorted(STEMS)
    assert set(metafile.PAPER) <= set(STEMS)
    # The names of work folders are unique, too.
    configs = [p for f in FOLDERS for p in metafile.ROOT.glob(f'configs/{f}/*.py')]
    assert len(configs) == len(STEMS)


def test_costs_differ_by_what_the_names_say(models):
    costs = {stem: model['Metadata'] for stem, model in models.items()}
    for stem, cost in costs.items():
        bits = '1/32' if 'w1a32' in stem else '32/32' if '_fp_' in stem else '1/1'
        bits = '32/1' if '_step1_' in stem else bits
        assert cost['W/A bits'] == bits
        assert (cost['Binary MACs'] > 0) == (bits == '1/1')
        assert (cost['Bytes packed'] < cost['Bytes fp32'] / 4) == (bits[:2] == '1/')
        assert cost['OPs'] == round(cost['BOPs'] / 64 + cost['FLOPs'])
    assert costs['resnet18_bireal_in1k']['Architecture'] == ['ResNet-18', 'Bi-Real']
    assert costs['vgg-small_digits']['Training Data'] == 'digits'
    assert costs['vgg-small_cifar10']['Epochs'] == 300


def test_openmmlabs_readers(monkeypatch):
    """They take it, and build a model by its name."""
    index = metafile.ROOT / 'model-index.yml'
    read = load(str(index))
    read.build_models_with_collections()
    # OpenMMLab writes paths as seen from the root, modelindex looks beside the file.
    assert all('README' in complaint for complaint in read.check(silent=True))
    assert {m.name for m in read.models} == {f'irnet_{stem}' for stem in STEMS}
    (bireal,) = (m for m in read.models if m.name == 'irnet_resnet20_bireal_cifar10')
    assert bireal.metadata.flops == 443_008
    assert bireal.results[0].metrics == {'Top 1 Accuracy (paper)': 86.5}

    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', True)
    ModelHub.register_model_index(index, config_prefix=metafile.ROOT)
    found = list_models('*resnet20*', task='Image Classification')
    with_results = sorted(metafile.PAPER.keys() | metafile.published().keys())
    reported = [f'irnet_{s}' for s in with_results if 'resnet20' in s]
    assert found == reported
    model = get_model('irnet_resnet20_bireal_cifar10')
    assert sum(p.numel() for p in model.parameters()) == bireal.metadata.parameters


def test_a_published_model_brings_weights_and_its_run():
    path = metafile.ROOT / 'configs' / MODEL.config
    made = metafile.entry(path, MODEL)
    assert made['Weights'] == 'irnet://resnet20_bireal_digits'
    assert made['Results'] == [
        {
            'Task': 'Image Classification',
            'Dataset': 'digits',
            'Metrics': {'Top 1 Accuracy': 97.5},
        }
    ]
    run = made['Metadata']['Published run']
    assert run == {
        k: getattr(MODEL, k) for k in ('bytes', 'epochs', 'seed', 'date', 'command')
    }
    assert 'Weights' not in metafile.entry(path)


def test_published_models_are_read_from_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(metafile, 'ROOT', tmp_path)
    assert metafile.published() == {}
    (tmp_path / 'zoo').mkdir()
    (tmp_path / 'zoo' / 'index.json').write_text(render_index({'a': MODEL}))
    assert metafile.published() == {'a': MODEL}


@functools.cache
def readme_rows(folder):
    """The tables' rows in a README, as header to cell, by name of the config."""
    rows, header = {}, []
    text = (metafile.ROOT / 'configs' / folder / 'README.md').read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if cells[:1] == ['config']:
            header = cells
        elif 'W/A bits' not in header:
            continue  # a table of results
        elif cells and (stem := re.match(r'\[(.+?)\]\(\1\.py\)', cells[0])):
            rows[stem[1]] = dict(zip(header, cells, strict=True))
    return rows


@pytest.mark.parametrize('stem', STEMS)
def test_readme_says_the_same(models, stem):
    row, model = readme_rows(STEMS[stem])[stem], models[stem]
    cost = model['Metadata']
    assert row['W/A bits'] == cost['W/A bits']
    assert row['parameters'] == short(cost['Parameters'])
    assert row['packed'] == short(cost['Bytes packed'], 'B')
    assert row['OPs'] == short(cost['OPs'])
    if stem in metafile.PAPER:
        top1, top5, source = metafile.PAPER[stem]
        figures = f'{top1}' if top5 is None else f'{top1} / {top5}'
        assert row['paper'] == figures + ('' if source == 'paper' else ' [^1]')
    else:
        assert row.get('paper', '') == ''


@pytest.mark.parametrize('folder', FOLDERS)
def test_readme_says_which_papers_report_the_best_epoch(folder):
    stems = [stem for stem in metafile.PAPER if STEMS[stem] == folder]
    sources = {metafile.PAPER[stem].source for stem in stems}
    text = (metafile.ROOT / 'configs' / folder / 'README.md').read_text()
    said = 'the best accuracy on the test set' in ' '.join(text.split())
    assert said == ('paper, best test epoch' in sources)


def test_tool_writes_and_checks(tmp_path, monkeypatch, capsys):
    tool = metafile.ROOT / 'tools' / 'zoo' / 'metafile.py'

    def run(*words):
        monkeypatch.setattr(sys, 'argv', [str(tool), *words])
        runpy.run_path(str(tool), run_name='__main__')

    monkeypatch.setattr(metafile, 'ROOT', tmp_path)
    monkeypatch.setattr(metafile, 'render', lambda folder: f'a text of {folder}')
    for folder in FOLDERS:
        (tmp_path / 'configs' / folder).mkdir(parents=True)
    run()
    for folder in FOLDERS:
        assert metafile.metafile(folder).read_text() == f'a text of {folder}'
    run('--check')
    path = metafile.metafile('reste')
    path.write_text('an older text')
    with pytest.raises(SystemExit) as end:
        run('--check')
    assert end.value.code == 2
    assert path.read_text() == 'an older text'
    message = 'configs/reste/metafile.yml is out of date: run tools/zoo'
    assert message in capsys.readouterr().err
