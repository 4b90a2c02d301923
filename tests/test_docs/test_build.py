"""The documentation site builds without a warning and needs no network."""

import importlib
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from small_run import PATIENCE, ROOT, environment
from warm_python import python

import mmirnet

DOCS = ROOT / 'docs'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    result = subprocess.run(
        [python(), '-m', 'sphinx', '-W', '--keep-going', '-q', DOCS, out],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return out


def test_every_page_is_built(site):
    pages = {page.relative_to(DOCS).with_suffix('.html') for page in DOCS.rglob('*.md')}
    if shutil.which('emcc') is None:
        pages.remove(Path('demo.html'))  # left out
    assert pages and all((site / page).is_file() for page in pages)


@pytest.mark.skipif(shutil.which('emcc') is None, reason='there is no emcc')
def test_one_page_loads_the_demo(site):
    sources = re.compile(r'src="(_static/demo/\w+\.js)')
    loaded = sources.findall((site / 'demo.html').read_text())
    assert len(loaded) == 4 and all((site / script).is_file() for script in loaded)
    assert not sources.findall((site / 'index.html').read_text())


def test_the_site_needs_no_network(site):
    loads = re.compile(
        r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|url\(["\']?http'
    )
    sheets = re.compile(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//')
    for page in [*site.rglob('*.html'), *site.rglob('*.css')]:
        text = page.read_text()
        assert not loads.search(text) and not sheets.search(text), page


def test_formulas_are_mathml(site):
    page = (site / 'explanation' / 'ede.html').read_text()
    assert '<math' in page and 'max' in page
    assert '\\max' not in page


def public_modules():
    for module in pkgutil.walk_packages(mmirnet.__path__, 'mmirnet.'):
        parts = module.name.split('.')
        if not any(part.startswith('_') for part in parts):
            yield module.name


def test_the_reference_has_every_public_module():
    pages = '\n'.join(page.read_text() for page in (DOCS / 'api').glob('*.md'))
    listed = re.findall(r'automodule:: (\S+)', pages)
    assert sorted(listed) == sorted({'mmirnet', *public_modules()})


FACES = [
    'analysis',
    'apis',
    'binary',
    'datasets',
    'engine',
    'models',
    'packed',
    'runtime',
    'zoo',
]


@pytest.mark.parametrize('face', FACES)
def test_the_reference_has_what_packages_export(site, face):
    package = importlib.import_module(f'mmirnet.{face}')
    page = (site / 'api' / f'{face}.html').read_text()
    for name in package.__all__:
        if callable(getattr(package, name)):
            assert f'id="{package.__name__}.{name}"' in page
