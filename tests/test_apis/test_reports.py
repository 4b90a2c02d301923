import base64
import html
import json
import re
import runpy
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from small_run import TEST_IMAGES, TOOLS
from trained_run import CLASSES

from mmirnet.analysis import plots, runs
from mmirnet.apis import reports as report
from mmirnet.engine.checkpoint import find_intact_checkpoint
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import build_model
from mmirnet.errors import UnsupportedModelError
from mmirnet.packed import pack, write
from mmirnet.runtime import instruction_sets

VOID = {'meta', 'img', 'source', 'br', 'link', 'hr', 'input'}


class Page(HTMLParser):
    """Tags that match, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        names = ('src', 'srcset', 'href', 'action', 'data', 'poster')
        self.links += [value for name, value in attrs if name in names]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(' '.join(data.split()))

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope='module')
def run(trained):
    return report.report_run(trained)


@pytest.fixture(scope='module')
def text(run):
    return report.render([run])


@pytest.fixture(scope='module')
def page(text):
    return Page(text)


def test_the_page_needs_nothing_beside_itself(text, page):
    assert page.count('script') == page.count('link') == page.count('iframe') == 0
    assert page.links
    for link in page.links:
        kind, data = re.fullmatch(
            r'data:image/(svg\+xml|png);base64,(\S+)', link
        ).groups()
        data = base64.b64decode(data, validate=True)
        if kind == 'png':
            assert data.startswith(b'\x89PNG')
        else:
            references = re.findall(r'(?:href|src)="([^"]*)"', data.decode())
            assert all(r.startswith(('#', 'data:')) for r in references)
    style = text.partition('<style>')[2].partition('</style>')[0]
    assert 'url(' not in style
    assert '@import' not in style
    assert 'http' not in re.sub(r'data:[^"]*', '', text)


def test_pictures_come_in_light_and_dark(page, run):
    assert list(run.pictures) == ['curves', 'flips', 'entropy', 'weights', 'confusion']
    assert page.count('picture') == page.count('source') == len(run.pictures)
    papers = plots.LIGHT.paper, plots.DARK.paper
    for picture in run.pictures.values():
        for uri, paper in zip((picture.light, picture.dark), papers, strict=True):
            assert f'fill: {paper}' in base64.b64decode(uri.partition(',')[2]).decode()
    sources = [attrs for tag, attrs in page.tags if tag == 'source']
    assert {a['media'] for a in sources} == {'(prefers-color-scheme: dark)'}


def test_numbers_of_the_run(page, run, trained):
    curves, _ = runs.read_scalars(trained)
    [accuracy] = curves['accuracy/top1'][1][-1:]  # validated on the same images
    assert run.results['accuracy/top1 (%)'] == f'{accuracy:.2f}'
    assert run.results['test images'] == str(TEST_IMAGES)
    assert run.results['parameters'] == '269,850'
    flips = curves['binary/flips'][1][-1]
    words = 'weights flipped since the record before'
    assert run.statistics[words] == f'{100 * flips:.2f} %'
    assert run.settings['W/A bits'] == '1/1'
    assert run.settings['EDE'] == 't_max 10, t_min 0.1'
    assert run.settings['length'] == '2 epochs'
    assert run.settings['seed'] == '0'
    assert run.settings['checkpoint'] == 'epoch_2.pth'
    assert run.settings['PyTorch'] == torch.__version__
    assert run.settings['data set'] == 'Digits'
    assert run.rows[-1][0] == 'total'
    for table in run.results, run.settings, run.statistics:
        for name, value in table.items():
            assert {name, value} <= set(page.text)
    assert {cell for row in run.rows for cell in row} <= {*page.text, ''}
    assert run.notes == []


def test_the_schedule_of_another_recipe_is_named(trained, run):
    """The plots' captions hold for it, too."""
    cfg = load_config(str(runs.config_file(trained)), None, 'none')
    cfg.custom_hooks = [dict(type='ScheduleHook', schedule='recu', tau_min=0.8)]
    costs = report.summary(build_model(cfg, None), (3, 32, 32))
    settings = report.settings(trained, cfg, costs)
    assert settings['schedule of binary layers'] == 'schedule recu, tau_min 0.8'
    assert 'EDE' not in settings
    assert not [p.caption for p in run.pictures.values() if 'EDE' in p.caption]


def test_packed_size_and_speed(run, trained, tmp_path):
    cfg = load_config(str(runs.config_file(trained)), None, 'none')
    model = build_model(cfg, find_intact_checkpoint(trained))
    write(pack(model, (32, 32)), tmp_path / 'a.safetensors')
    size = (tmp_path / 'a.safetensors').stat().st_size
    assert run.results['packed file (weights and graph)'] == f'{size / 1000:.3g} kB'
    times = re.findall(r'\d[\d.e+-]*', run.results['runtime, one image, one thread'])
    median, low, high = map(float, times)
    assert 0 < low <= median <= high
    assert run.results['instruction set'] in instruction_sets()


def test_names_are_escaped(text, page):
    assert '<i>' not in text
    assert '<b>0' not in text
    assert html.escape('run <i>') in text
    assert 'run <i>' in page.text
    assert {f'Test image of class {name}' for name in CLASSES} & {
        attrs.get('alt') for _, attrs in page.tags
    }


def test_examples_are_right_and_wrong(run):
    assert len(run.right) + len(run.wrong) > 0
    assert all(e.true == e.predicted for e in run.right)
    assert all(e.true != e.predicted for e in run.wrong)
    probabilities = [e.probability for e in run.wrong]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(run.right) <= report.EXAMPLES
    assert len(run.wrong) <= report.EXAMPLES


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_examples_are_chosen_and_coloured(order):
    scores = np.full((30, 2), 0.5, np.float32)
    scores[:, 1] = np.linspace(0.6, 0.9, 30)
    scores[:, 0] = 1 - scores[:, 1]
    labels = np.array([1] * 20 + [0] * 10)
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0] = 255
    dataset = [dict(inputs=image)] * 30
    predictions = report.Predictions({}, labels, scores, dataset, ['cat', 'dog'])
    right, wrong = report.examples(predictions, order)
    assert len(right) == len(wrong) == report.EXAMPLES
    assert wrong[0].probability == pytest.approx(90)
    assert (wrong[0].true, wrong[0].predicted) == ('cat', 'dog')
    assert wrong[-1].probability == pytest.approx(100 * scores[22, 1])
    assert right[0].probability == pytest.approx(60)
    assert right[-1].probability == pytest.approx(100 * scores[19, 1])
    blue_or_red = report.png_uri(
        image.numpy().transpose(1, 2, 0)[..., :: -1 if order == 'bgr' else 1]
    )
    assert right[0].image == blue_or_red
    assert right[0].pixelated


def test_runs_side_by_side(run):
    other = run._replace(
        name='other',
        settings={**run.settings, 'length': '9 epochs'},
        pictures={'curves': run.pictures['curves']},
        statistics={},
        right=[],
        wrong=[],
        notes=['no network of <bits>'],
    )
    text = report.render([run, other])
    page = Page(text)
    rows = re.findall(r'<tr( class="differs")?><th scope="row">(.*?)</th>', text)
    assert (' class="differs"', 'length') in rows
    assert ('', 'seed') in rows
    assert 'other: no network of <bits>' in page.text
    assert page.count('picture') == len(run.pictures) + 1


def test_missing_data_and_layers_leave_the_rest(trained, monkeypatch):
    def no_data(*args):
        raise FileNotFoundError('there is no folder data')

    def no_format(*args):
        raise UnsupportedModelError('no such layer')

    monkeypatch.setattr(report, 'predict', no_data)
    monkeypatch.setattr(report, 'deployment', no_format)
    monkeypatch.setattr(report, 'svg_uri', lambda figure: 'data:')
    run = report.report_run(trained, trained / 'epoch_1.pth')
    assert run.settings['checkpoint'] == 'epoch_1.pth'
    assert [note.rpartition(': ')[2] for note in run.notes] == [
        'there is no folder data',
        'no such layer',
    ]
    assert 'confusion' not in run.pictures
    page = Page(report.render([run]))
    assert 'Predictions' not in page.text
    assert '269,850' in page.text


def test_mistakes(trained, tmp_path):
    with pytest.raises(ValueError, match='one run'):
        report.write_report([trained, trained], tmp_path / 'a.html', 'epoch_1.pth')
    with pytest.raises(FileNotFoundError, match='holds no log'):
        report.write_report([tmp_path], tmp_path / 'a.html')
    vis_data = tmp_path / '1' / 'vis_data'
    vis_data.mkdir(parents=True)
    line = json.dumps(dict(loss=1.0, epoch=1, step=1))
    (vis_data / 'scalars.json').write_text(line)
    (vis_data / 'config.py').write_text('')
    with pytest.raises(FileNotFoundError, match='no intact checkpoint'):
        report.report_run(tmp_path)


def test_tool(run, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        report,
        'report_run',
        lambda *args: run._replace(name=' '.join(filter(None, args))),
    )
    out = tmp_path / 'new' / 'page.html'
    arguments = ['RUN', '--out', str(out), '--checkpoint', 'FILE']
    monkeypatch.setattr(sys, 'argv', ['report.py', *arguments])
    runpy.run_path(str(TOOLS / 'analysis' / 'report.py'), run_name='__main__')
    assert capsys.readouterr().out == f'{out}\n'
    assert 'RUN FILE' in Page(out.read_text()).text
