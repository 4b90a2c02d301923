import json
import re
import shutil

import pytest
from small_run import ROOT

from mmirnet.analysis import results

ABLATION = ROOT / 'configs/ablation'


def line(config, seed, accuracy, digest='a'):
    curve = [40.0, accuracy]
    return dict(config=config, digest=digest, seed=seed, accuracy=accuracy, curve=curve)


def write(path, *lines):
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in lines))


@pytest.fixture
def folder(tmp_path):
    """Configs, their results and costs."""
    for name in ('good', 'bad'):
        (tmp_path / f'{name}.py').write_text(
            f'# The {name} one, at t = 0.1: and why.\n'
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


def test_table(folder):
    *_, first, second = results.table(folder).splitlines()
    assert first == (
        '| [good](good.py) | The good one, at t = 0.1 | 91.00 ± 1.41 | 2 '
        '| 59.7 kB | 310 µs | 229 ms |'
    )
    assert second == (
        '| [bad](bad.py) | The bad one, at t = 0.1 | 50.00 | 1 |  |  |  |'
    )


def texts(svg):
    return re.findall(r'<text.*?>(.*?)</text>', svg.read_text())


def test_readme(folder):
    (folder / 'README.md').write_text(
        'Before.\n<!-- generated: table -->\nold\n<!-- end -->\nBetween.\n'
        '<!-- generated: curves parts bad good missing -->\n<!-- end -->\n'
        '<!-- generated: costs money -->\n\n<!-- end -->\nAfter.\n'
    )
    text = results.update_readme(folder)
    assert text == (folder / 'README.md').read_text()
    assert results.update_readme(folder) == text
    assert results.table(folder) in text and 'old' not in text
    for kept in ('Before.', 'Between.', 'After.'):
        assert kept in text
    for name in ('parts', 'money'):
        for shade in ('light', 'dark'):
            assert f'"{name}-{shade}.svg"' in text
    labels = ['bad: 50.00 %', 'good: 91.00 ± 1.41 %']
    assert ', '.join(labels) in text
    assert texts(folder / 'parts-dark.svg')[-2:] == labels
    assert texts(folder / 'money-light.svg')[-1] == 'good'


def test_the_same_results_give_the_same_picture(folder):
    results.curves(folder, 'once', 'good')
    results.curves(folder, 'again', 'good')
    once, again = (folder / f'{n}-light.svg' for n in ('once', 'again'))
    assert once.read_bytes() == again.read_bytes()


def test_the_readme_is_what_the_results_say(tmp_path):
    folder = tmp_path / 'ablation'
    shutil.copytree(ABLATION, folder)
    written = (folder / 'README.md').read_text()
    assert results.update_readme(folder) == written
    for name in results.by_config(results.read_results(folder / 'results.jsonl')):
        assert f'[{name}]({name}.py)' in written
    pictures = list(folder.glob('*.svg'))
    assert pictures
    for picture in pictures:
        assert texts(picture) == texts(ABLATION / picture.name)


def test_the_projects_readme_is_what_the_results_say(tmp_path):
    written = (ROOT / 'README.md').read_text()
    assert '<!-- generated: table ' in written
    (tmp_path / 'configs').mkdir()
    shutil.copytree(ROOT / 'configs' / 'ablation', tmp_path / 'configs' / 'ablation')
    page = tmp_path / 'README.md'
    page.write_text(written)
    assert results.update_readme(tmp_path / 'configs' / 'ablation', page) == written
