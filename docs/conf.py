"""The documentation site: ``python -m sphinx -W docs docs/_build``."""

import gc
import importlib
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import FunctionType

from docutils.nodes import Element, Node, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import mmirnet
from mmirnet.binary import RECIPES

sys.path.insert(0, str(Path(__file__).parent / '_demo'))
import make_demo

# A build makes millions of objects and little garbage: to look for it takes a sixth
# of the time.
gc.set_threshold(100_000, 50, 100)

project = 'mmirnet'
author = 'the mmirnet authors'
release = version = mmirnet.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_enable_extensions = ['attrs_inline', 'dollarmath']
myst_heading_anchors = 3
exclude_patterns = ['_build', '_demo', '_pictures']

autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
napoleon_use_ivar = True

html_theme = 'furo'
html_title = 'mmirnet'
html_math_renderer = 'mathml'
html_show_copyright = False
html_static_path = ['_static']
html_css_files = ['math.css', 'sortable.css']
html_js_files = ['sortable.js']

#: Pictures of the method: functions of `mmirnet.analysis.plots`.
PICTURES = ('ede_family', 'ede_stages', 'estimator_errors')

#: What leads to the page that runs networks: lines of the front page, and links.
DEMO_LINE = re.compile(r'^(demo|- \*\*\[.*\]\(demo\.md\).*)\n', re.MULTILINE)
DEMO_LINK = re.compile(r'\[([^]]+)\]\([./]*demo\.md\)')

#: Packages whose names are used as ``from PACKAGE import NAME``.
FACES = (
    'binary',
    'models',
    'engine',
    'datasets',
    'packed',
    'runtime',
    'analysis',
    'zoo',
    'apis',
)


def show_where_imported() -> None:
    """Documents what a package exports as its own, not as its modules'."""
    for face in FACES:
        package = importlib.import_module(f'mmirnet.{face}')
        for name in package.__all__:
            item = getattr(package, name)
            named = isinstance(item, type | FunctionType)
            if named and item.__module__.startswith(f'{package.__name__}.'):
                item.__module__ = package.__name__
            setattr(package, name, item)  # Sphinx does not see what is made on demand


def inline_math(translator: HTML5Translator, node: Element) -> None:
    """Writes a formula as MathML: browsers show it without a script or a network."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def displayed_math(translator: HTML5Translator, node: Element) -> None:
    """Writes a formula on a line of its own."""
    formula = convert(node.astext(), display='block')
    translator.body.append(f'<div class="math">{formula}</div>')
    raise SkipNode


def skip_fields(app, what, name, item, skip, options) -> bool | None:
    """Leaves out what a named tuple's fields say of themselves: their number."""
    return (getattr(item, '__doc__', None) or '').startswith('Alias for field') or None


def draw_pictures(app: Sphinx) -> None:
    """Draws the pictures of the method and of the recipes, for light and dark pages.

    One that is younger than what it is made from stays.
    """
    from mmirnet.analysis import plots

    package = Path(mmirnet.__file__).parent
    sources = [*package.glob('analysis/plots/*.py'), *package.glob('binary/**/*.py')]
    changed = max(path.stat().st_mtime for path in (Path(__file__), *sources))
    folder = Path(app.srcdir) / '_pictures'
    folder.mkdir(exist_ok=True)
    draw = {name: getattr(plots, name) for name in PICTURES}
    for recipe in ('IR-Net', *RECIPES):
        draw[recipe] = partial(plots.recipe_curves, recipe)
    for name, function in draw.items():
        for dark in (False, True):
            shade = 'dark' if dark else 'light'
            path = folder / f'{name}-{shade}.png'
            if not path.exists() or path.stat().st_mtime < changed:
                function(dark=dark).savefig(path, dpi=150)


def build_demo(app: Sphinx) -> None:
    """Builds what the page `demo` loads, or leaves that page out and says why."""
    if reason := make_demo.missing():
        print(f'the page "Try it in the page" is left out: {reason}', file=sys.stderr)
        app.config.exclude_patterns.append('demo.md')
        app.connect('source-read', leave_demo_out)
        return
    static = Path(app.doctreedir) / 'demo_static'
    shutil.rmtree(static, ignore_errors=True)
    make_demo.build(static / 'demo')
    app.config.html_static_path.append(str(static))
    app.connect('html-page-context', load_demo)


def leave_demo_out(app: Sphinx, page: str, source: list[str]) -> None:
    """Takes out of a page what leads to the page `demo`."""
    text = DEMO_LINE.sub('', source[0]) if page == 'index' else source[0]
    source[0] = DEMO_LINK.sub(r'\1', text)


def load_demo(app: Sphinx, page: str, template: str, context: dict, tree: Node) -> None:
    """Lets the page `demo`, and no other, load its scripts."""
    if page == 'demo':
        app.add_css_file(f'demo/{make_demo.STYLE}')
        for script in make_demo.SCRIPTS:
            app.add_js_file(f'demo/{script}', loading_method='defer')


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer('mathml', (inline_math, None), (displayed_math, None))
    app.connect('builder-inited', draw_pictures)
    app.connect('builder-inited', build_demo)
    app.connect('autodoc-skip-member', skip_fields)
    show_where_imported()
