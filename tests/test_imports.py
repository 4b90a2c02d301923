"""Imports point one way: see the picture in CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmirnet

PACKAGE = Path(mmirnet.__file__).parent
#: Parts that a part may import, beside itself and what stands below all.
BELOW = {
    'binary': set(),
    'datasets': set(),
    'models': {'binary'},
    'engine': {'binary', 'datasets', 'models'},
    'packed': {'binary', 'datasets', 'models', 'engine'},
    'runtime': {'packed'},
    'analysis': {'binary', 'datasets', 'models', 'engine', 'packed', 'runtime'},
    'zoo': {'binary', 'datasets', 'models', 'engine', 'packed', 'runtime', 'analysis'},
}
BELOW['apis'] = set(BELOW)
#: Packages of the engine, each of which may import those before it.
ENGINE = ['config_checks', 'facts', 'checks', 'resuming', 'hooks', 'capture']
#: Single files below all parts, each of which may import those before it.
FOUNDATION = ['errors', 'registry', 'files', 'images', 'compat']
FILES = sorted(PACKAGE.rglob('*.py'))


def imports(path, nodes=ast.walk):
    """What a file imports, by full name; wherever in it by default."""
    package = path.relative_to(PACKAGE.parent).parts[:-1]
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple((node.module or '').split('.')) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split('.')) for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    for name in imports(path):
        if name[0] != 'mmirnet' or name[1] in ('__version__', part):
            continue
        if part in FOUNDATION:
            allowed = FOUNDATION[: FOUNDATION.index(part)]
        elif part in BELOW:
            allowed = {*BELOW[part], *FOUNDATION}
        else:
            return  # __init__.py registers all parts, deploy.py names those that moved
        assert name[1] in allowed, f'{part} imports {".".join(name)}'


@pytest.mark.parametrize('package', ENGINE)
def test_arrows_point_down_in_the_engine(package):
    for path in (PACKAGE / 'engine' / package).rglob('*.py'):
        for name in imports(path):
            if name[:2] == ('mmirnet', 'engine') and name[2] in ENGINE:
                assert ENGINE.index(name[2]) <= ENGINE.index(package), path


def test_no_module_imports_itself():
    names = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
        names[parts[:-1] if parts[-1] == '__init__' else parts] = path
    graph = {
        name: {
            module
            for found in imports(path, ast.iter_child_nodes)
            for module in (found, found[:-1])
            if module in names
        }
        for name, path in names.items()
        if path.name != '__init__.py'
    }
    done = set()

    def visit(name, chain):
        assert name not in chain, ' -> '.join(map('.'.join, (*chain, name)))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*chain, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ('module', 'absent'),
    [
        ('mmirnet.binary', ('mmengine', 'mmcv', 'mmpretrain')),
        ('mmirnet.runtime', ('torch', 'mmengine', 'mmcv', 'mmpretrain')),
        ('mmirnet.packed', ('torch', 'mmengine', 'mmcv', 'mmpretrain')),
    ],
)
def test_parts_that_need_little(module, absent):
    """Where OpenMMLab is not installed; a stand-in for the missing packages."""
    code = (
        'import sys\n'
        f'for name in {absent}:\n'
        '    sys.modules[name] = None\n'
        'import importlib.util as u\n'
        'find = u.find_spec\n'
        f'u.find_spec = lambda n, *a: None if n in {absent} else find(n, *a)\n'
        f'import {module}\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
