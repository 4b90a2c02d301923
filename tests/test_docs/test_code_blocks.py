"""Every code block of the documentation runs, page by page, in a checkout of its own.

A block with a caption is the file of that name; one in a comment is not shown. A block
behind a comment ``<!-- not run: REASON -->`` is checked instead: its syntax, and that
the files and the options of tools that it names exist.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from small_run import PATIENCE, ROOT, warm
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
NOT_RUN = re.compile(r'<!-- not run: [^>]+ -->\s*\Z')

#: In the place of the digits' config: the same commands and files in seconds.
SMALL = """
_base_ = './full_digits.py'
train_dataloader = dict(batch_size=16, dataset=dict(indices=16))
val_dataloader = dict(dataset=dict(indices=8))
test_dataloader = dict(dataset=dict(indices=8))
train_cfg = dict(val_interval=30)
default_hooks = dict(checkpoint=dict(interval=10), logger=dict(interval=2))
"""


def is_run(example):
    return not NOT_RUN.search(example.document.text[: example.start])


def write_file(example):
    path = Path(example.region.lexemes['options']['caption'])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(example.parsed)
    compile(example.parsed, path, 'exec')


def check_syntax(example):
    compile(example.parsed, example.path, 'exec')


def python_blocks(document):
    for region in PythonCodeBlockParser()(document):
        if region.lexemes and 'caption' in region.lexemes.get('options', {}):
            region.evaluator = write_file
        elif NOT_RUN.search(document.text[: region.start]):
            region.evaluator = check_syntax
        yield region


def run_bash(example):
    if not is_run(example):
        check_commands(example.parsed)
        return
    result = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', example.parsed],
        env=warm(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, f'line {example.line}: {result.stderr[-2000:]}'


def commands(block):
    """The words of each command, variables in front and comments left out."""
    for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r'\w+=', words[0]):
            words.pop(0)
        yield words


def program(tool):
    """What reads a tool's options: launchers hand theirs on."""
    name = re.sub(r'^tools/(?:dist|slurm)_(\w+)\.sh$', r'tools/\1.py', tool)
    return name if name.endswith('.py') else None


def options_of(tool):
    """What its parser is told; that ``-h`` works is tested with the tools."""
    source = (ROOT / tool).read_text()
    return set(re.findall(r"add_argument\(\s*'(--[\w-]+)'", source))


def check_commands(block):
    syntax = ['bash', '-n', '-c', block]
    result = subprocess.run(syntax, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for words in commands(block):
        named = [w for w in words if re.match(r'(tools|configs|tests)/[\w/.-]+$', w)]
        for name in named:
            assert (
                any(p.exists() for p in (ROOT / name, Path(name))) or 'NAME' in name
            ), name
        tool = program(named[0]) if named else None
        options = {w for w in words if w.startswith('--')}
        if tool and options:
            assert options <= options_of(tool), options - options_of(tool)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout, where the digits are few."""
    for name in ('tools', 'mmirnet', 'zoo'):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    config = tmp_path / 'configs' / 'irnet' / 'resnet20_bireal_digits.py'
    config.rename(config.with_name('full_digits.py'))
    config.write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMIRNET_ZOO', '')  # as in a checkout
    return tmp_path


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, checkout):
    parsers = [python_blocks, CodeBlockParser('bash', run_bash)]
    document = Sybil(parsers, path=str(page.parent)).parse(page)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_kind_that_runs(page):
    fences = re.findall(r'^```(\S+.*)$', page.read_text(), re.MULTILINE)
    kinds = ('python', 'bash', '{code-block} python', 'text', 'bibtex')
    structure = ('{toctree}', '{eval-rst}', '{container} sortable')
    assert set(fences) <= {*kinds, *structure}


def test_the_readme_is_a_front_door():
    """A newcomer reads it in ten minutes."""
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    'block',
    [
        'python tools/absent.py CONFIG',
        'python tools/train.py configs/irnet/absent.py',
        'tools/dist_train.sh CONFIG 8 \\\n  --absent',
        'echo "',
    ],
)
def test_the_check_refuses(block):
    with pytest.raises(AssertionError):
        check_commands(block)
