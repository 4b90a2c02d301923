"""Tables and plots of results; and that the pages say what the results say."""

import json
import re
import runpy
import shutil
import sys

import pytest
from small_run import ROOT

from mmirnet.analysis import readme
from mmirnet.analysis.paper import PAPER, twins
from mmirnet.analysis.results import read_results

PAGES = [page.relative_to(ROOT).as_posix() for page in readme.pages(ROOT)]


def line(config, seed, accuracy, digest='a', **fields):
    curve = [40.0, accuracy]
    made = dict(config=config, digest=digest, seed=seed, accuracy=accuracy, curve=curve)
    return dict(made, **fields)


def write(path, *lines):
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in lines))


@pytest.fixture
def folder(tmp_path):
    """Configs, their results and costs."""
    for name in ('good', 'bad'):
        (tmp_path / f'{name}.py').write_text(
            f'# The {name} one, at t = 0.1: and why.\ntrain_cfg = dict(max_epochs=2)\n'
        )
    write(
        tmp_path / 'results.jsonl',
        line('bad', 0, 50.0),
        line('good', 0, 10.0, 'old settings'),
        line('good', 0, 90.0),
        line('good', 1, 92.0),
    )
    costs = dict(packed_bytes=59_700, runtime_us=310.2, step_ms=229.0)
    (tmp_path / 'costs.json').write_text(json.dumps(dict(configs=dict(good=costs))))
    return tmp_path


def rows(text):
    """The rows of a table as header to cell."""
    header, _, *lines = (
        [cell.strip() for cell in row.split('|')[1:-1]] for row in text.splitlines()
    )
    return [dict(zip(header, cells, strict=True)) for cells in lines]


def test_table(folder):
    text = readme.table(folder / 'README.md', [folder], [])
    *_, first, second = text.splitlines()
    assert first == (
        '| [good](good.py) | The good one, at t = 0.1 | 91.00 ± 1.41 | 2 '
        '| 59.7 kB | 310 µs | 229 ms |'
    )
    assert second == (
        '| [bad](bad.py) | The bad one, at t = 0.1 | 50.00 | 1 |  |  |  |'
    )


def texts(svg):
    return re.findall(r'<text.*?>(.*?)</text>', svg.read_text())


def test_page(folder):
    page, costs = folder / 'README.md', readme.read_costs(folder)
    costs['bad'] = costs['good'] | dict(runtime_us=290.1)
    (folder / 'costs.json').write_text(json.dumps(dict(configs=costs)))
    page.write_text(
        'Before.\n<!-- generated: table -->\nold\n<!-- end -->\nBetween.\n'
        '<!-- generated: curves parts bad good missing -->\n<!-- end -->\n'
        '<!-- generated: costs money -->\n\n<!-- end -->\nAfter.\n'
    )
    text = readme.update_page(page)
    assert text == page.read_text()
    assert readme.update_page(page) == text
    assert readme.table(page, [folder], []) in text and 'old' not in text
    for kept in ('Before.', 'Between.', 'After.'):
        assert kept in text
    for name in ('parts', 'money'):
        for shade in ('light', 'dark'):
            assert f'"{name}-{shade}.svg"' in text
    labels = ['bad: 50.00 %', 'good: 91.00 ± 1.41 %']
    assert ', '.join(labels) in text
    assert texts(folder / 'parts-dark.svg')[-2:] == labels
    assert {'bad', 'good'} <= set(texts(folder / 'money-light.svg'))


def test_networks_of_different_budgets_are_told_apart(folder):
    costs = readme.read_costs(folder)['good']
    both = dict(configs=dict(good=costs, bad=costs))
    (folder / 'costs.json').write_text(json.dumps(both))
    lines = line('good', 0, 90.0), line('bad', 0, 50.0, epochs=30)
    write(folder / 'results.jsonl', *lines)
    readme.costs(folder / 'README.md', [folder], ['money'])
    legend = ['2 epochs', '30 epochs', 'full precision']
    assert texts(folder / 'money-light.svg')[-3:] == legend


def test_costs_name_their_device(folder):
    costs = readme.read_costs(folder)['good']
    where = dict(device='a CPU', vector='AVX2', threads=1, date='2026-11-01')
    both = dict(configs=dict(good=costs, bad=costs), **where)
    (folder / 'costs.json').write_text(json.dumps(both))
    text = readme.costs(folder / 'README.md', [folder, folder], ['money'])
    assert text.endswith('\n\nMeasured on a CPU, AVX2, threads: 1, 2026-11-01.')


def test_curves_of_different_budgets(folder):
    longer = line('bad', 0, 50.0, epochs=4) | dict(curve=[10.0, 30.0, 40.0, 50.0])
    write(folder / 'results.jsonl', line('good', 0, 90.0), longer)
    readme.curves(folder / 'README.md', [folder], ['parts', 'bad', 'good'])
    found = texts(folder / 'parts-light.svg')
    assert found[-2:] == ['bad (4 epochs): 50.00 %', 'good (2 epochs): 90.00 %']
    assert 'share of the run (%)' in found


def test_curves_are_named_without_a_common_data_set(paper):
    write(paper / 'results.jsonl', line(BINARY, 0, 80.0), line(RELU, 0, 90.0))
    readme.curves(paper / 'README.md', [paper], ['parts', BINARY, RELU])
    found = texts(paper / 'parts-light.svg')
    assert found[-2:] == ['resnet20_bireal: 80.00 %', 'resnet20_fp: 90.00 %']


def test_one_network_is_no_picture(folder):
    page = folder / 'README.md'
    assert 'two networks or more' in readme.costs(page, [folder], ['money'])
    assert not (folder / 'money-light.svg').exists()


def test_the_same_results_give_the_same_picture(folder):
    page = folder / 'README.md'
    readme.curves(page, [folder], ['once', 'good'])
    readme.curves(page, [folder], ['again', 'good'])
    once, again = (folder / f'{n}-light.svg' for n in ('once', 'again'))
    assert once.read_bytes() == again.read_bytes()


BINARY, RELU, TWIN = (
    f'{name}_cifar10-jpeg'
    for name in ('resnet20_bireal', 'resnet20_fp', 'resnet20_bireal_fp')
)


LONG_TWIN = line(TWIN, 0, 90.0, epochs=9)


@pytest.fixture
def paper(tmp_path):
    """Results with their twins, of one budget, and one of another."""
    for name in (BINARY, RELU, TWIN):
        (tmp_path / f'{name}.py').write_text('train_cfg = dict(max_epochs=400)\n')
    write(
        tmp_path / 'results.jsonl',
        line(BINARY, 0, 80.0, best=82.0, best_epoch=1),
        line(BINARY, 1, 84.0),
        line(TWIN, 0, 86.5),
        line(RELU, 0, 91.0, epochs=9),
    )
    return tmp_path


def test_accuracy_beside_the_paper_and_full_precision(paper):
    text = readme.accuracy(paper / 'README.md', [paper], [BINARY, RELU, TWIN, 'other'])
    ours, relu, twin, other = rows(text)
    assert ours == {
        'config': f'[{BINARY}]({BINARY}.py)',
        'paper': '86.5',
        'last epoch': '82.00 ± 2.83',
        'best epoch': '83.00 ± 1.41 (1, 2)',
        'full precision': '86.50',  # the other one had another budget
        'loss by binarisation': '4.50',
        "paper's loss": '5.2',
        'seeds': '2',
        'epochs': '2 of 400',
    }
    assert (relu['paper'], relu['epochs']) == ('91.7 (recalled)', '9 of 400')
    assert twin['paper'] == twin['loss by binarisation'] == ''
    assert set(list(other.values())[1:]) == {'not run here yet', ''}


@pytest.mark.parametrize('alone', [True, False])
def test_fewer_epochs_are_shown_where_only_they_have_a_twin(paper, alone):
    runs = [line(BINARY, 0, 60.0, epochs=n, digest=str(n)) for n in (1, 2, 3, 9)]
    short = [line(TWIN, 0, 70.0 + n, epochs=n, digest=str(n)) for n in (1, 3)]
    write(paper / 'results.jsonl', *runs, *short, *([] if alone else [LONG_TWIN]))
    found = rows(readme.accuracy(paper / 'README.md', [paper], [BINARY]))
    losses = [(row['epochs'], row['loss by binarisation']) for row in found]
    assert readme.runs(paper / 'README.md', [paper], [BINARY]).count(BINARY) == (
        2 * len(found)
    )
    longest = ('9 of 400', '' if alone else '30.00')
    assert losses == [longest, *[('3 of 400', '13.00')] * alone]


def test_both_twins_are_named(paper):
    write(
        paper / 'results.jsonl',
        line(BINARY, 0, 80.0, recipe_epochs=2),
        line(TWIN, 0, 86.5),
        line(RELU, 0, 91.0),
    )
    row = rows(readme.accuracy(paper / 'README.md', [paper], [BINARY]))[0]
    assert row['epochs'] == '2'
    wanted = '11.00 (resnet20_fp), 6.50 (resnet20_bireal_fp)'
    assert row['loss by binarisation'] == wanted


def test_other_images_are_not_compared(paper):
    write(paper / 'results.jsonl', line(BINARY, 0, 80.0, copy='a'), line(TWIN, 0, 86.5))
    row = rows(readme.accuracy(paper / 'README.md', [paper], [BINARY]))[0]
    assert 'full precision' not in row


def test_losses_of_the_paper():
    network = ('resnet20_bireal', 'resnet20_w1a32', 'resnet18_normal', 'vgg-small')
    names = [f'{name}_cifar10' for name in network]
    losses = [PAPER[twins(name)[0]].top1 - PAPER[name].top1 for name in names]
    assert [round(loss, 1) for loss in losses] == [5.2, 0.9, 1.5, 1.3]


def test_runs(folder):
    how = dict(
        precision='bfloat16',
        device='A, B',
        threads=1,
        seconds=5400.0,
        date='2026-11-27',
        copy='CIFAR-10: JPEG copy in data/cifar10/test, not the lossless images',
        command='python tools/experiments/run.py good.py --seeds 0',
    )
    write(folder / 'results.jsonl', line('good', 0, 90.0, **how), line('bad', 3, 50.0))
    good, bad = rows(readme.runs(folder / 'results.md', [folder], []))
    assert list(good.values()) == [
        '`good`',
        '0',
        'bfloat16',
        'A, B, threads: 1',
        '1.5',
        '2026-11-27',
        'CIFAR-10: JPEG copy',
        '`python tools/experiments/run.py good.py --seeds 0`',
    ]
    assert bad == dict.fromkeys(good, '') | {'config': '`bad`', 'seed': '3'}


@pytest.mark.parametrize(
    'seconds, wanted', [(72.0, '0.02'), (5400.0, '1.5'), (444240.0, '123')]
)
def test_hours_of_short_and_long_runs(folder, seconds, wanted):
    write(folder / 'results.jsonl', line('good', 0, 90.0, seconds=seconds))
    (row,) = rows(readme.runs(folder / 'results.md', [folder], []))
    assert row['hours'] == wanted


@pytest.mark.parametrize('what', ['table', 'runs', 'curves a b', 'costs a'])
def test_without_results(folder, what):
    (folder / 'results.jsonl').unlink()
    page = folder / 'README.md'
    page.write_text(f'<!-- generated: {what} -->\nold\n<!-- end -->')
    assert '\n\n*Not run here yet.*\n\n' in readme.update_page(page)
    assert not list(folder.glob('*.svg'))


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
    """The pages and what they are made from, written once more."""
    root = tmp_path_factory.mktemp('copy')
    for page in PAGES:
        target = root / page
        source = (ROOT / page).parent
        if source != ROOT:
            shutil.copytree(source, target.parent, dirs_exist_ok=True)
        shutil.copy(ROOT / page, target)
    for name in ('zoo', 'docs/_static', 'configs/_base_'):
        shutil.copytree(ROOT / name, root / name, dirs_exist_ok=True)
    for page in PAGES:
        readme.update_page(root / page)
    return root


@pytest.mark.parametrize('name', PAGES)
def test_the_pages_are_what_the_results_say(copied, name):
    written = (ROOT / name).read_text()
    assert written == (copied / name).read_text(), 'run tools/experiments/readme.py'
    results = read_results((ROOT / name).parent / 'results.jsonl')
    assert all(
        f'[{line["config"]}]({line["config"]}.py)' in written for line in results
    )


def test_the_pictures_are_what_the_results_say(copied):
    pictures = [*copied.glob('configs/*/*.svg'), *copied.glob('docs/_static/*.svg')]
    assert pictures
    for picture in pictures:
        assert texts(picture) == texts(ROOT / picture.relative_to(copied))


def test_every_folder_of_results_has_a_page():
    folders = {path.parent for path in ROOT.glob('configs/*/results.jsonl')}
    assert folders <= {(ROOT / page).parent for page in PAGES}


def test_tool(folder, monkeypatch, capsys):
    tool, page = ROOT / 'tools/experiments/readme.py', folder / 'README.md'
    page.write_text('<!-- generated: table -->\n<!-- end -->')
    monkeypatch.setattr(sys, 'argv', [str(tool), str(page)])
    runpy.run_path(str(tool), run_name='__main__')
    assert capsys.readouterr().out == f'{page}\n'
    assert '[good](good.py)' in page.read_text()
