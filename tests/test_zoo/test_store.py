import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import PATIENCE
from web import CONTENT, NAME, cut, entry, files, status

from mmirnet.zoo import ZooError, fetch, list_models, read_index, store
from mmirnet.zoo.index import MAX_INDEX_BYTES

FILE = entry()['file']
ROOT = Path(__file__).parents[2]


def asked(web):
    return [name for name, _ in web.seen]


def test_a_model_is_downloaded_once(web):
    path = fetch(NAME)
    assert (path.name, path.read_bytes()) == (FILE, CONTENT)
    assert asked(web) == ['index.json', FILE]
    assert fetch(f'irnet_{NAME}') == path
    assert len(web.seen) == 2  # no network for what is here
    (copy,) = path.parent.glob('index*')
    copy.write_bytes(copy.read_bytes()[:-1])
    assert fetch(NAME) == path
    copy.unlink()
    assert fetch(NAME) == path
    assert asked(web)[2:] == ['index.json'] * 2


def test_what_is_here_needs_no_library(web, monkeypatch):
    path = fetch(NAME)
    monkeypatch.setattr(store, '_network', None)
    assert fetch(NAME) == path


def test_the_cache_is_where_torch_hub_has_it(monkeypatch, tmp_path):
    cases = [dict(TORCH_HOME=str(tmp_path)), dict(XDG_CACHE_HOME=str(tmp_path)), {}]
    for case in cases:
        monkeypatch.delenv('TORCH_HOME', raising=False)
        monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
        for name, value in case.items():
            monkeypatch.setenv(name, value)
        assert store.cache_dir() == Path(torch.hub.get_dir(), 'checkpoints', 'mmirnet')


@pytest.mark.parametrize(
    'damage', [lambda p: p.unlink(), lambda p: p.write_bytes(b'x' * len(CONTENT))]
)
def test_a_damaged_cache_is_mended(web, damage):
    damage(fetch(NAME))
    assert fetch(NAME).read_bytes() == CONTENT
    assert asked(web)[2:] == ['index.json', FILE]


def test_a_new_index_is_seen_when_it_is_read(web):
    old = fetch(NAME)
    web.files.update(files(**{NAME: b'better'}))
    assert fetch(NAME) == old
    assert read_index()[NAME].bytes == 6
    assert fetch(NAME).read_bytes() == b'better'
    assert old.read_bytes() == CONTENT


def test_names_that_the_zoo_alone_has(web):
    fetch(NAME)
    web.files.update(files(own=b'of a config of ones own'))
    path = fetch('own')
    assert path.read_bytes() == b'of a config of ones own'
    del web.seen[:]
    assert fetch('own') == path
    assert not web.seen


def test_without_the_zoo_the_last_index_serves(web):
    known = read_index()
    web.faults['index.json'] = [status(503)] * 4
    with pytest.warns(UserWarning, match='503 .*using the cached index'):
        assert read_index() == known
    web.faults['index.json'] = [status(503)] * 4
    with pytest.warns(UserWarning, match='cached index'):
        assert fetch(NAME).read_bytes() == CONTENT


def test_an_index_is_read_where_nothing_can_be_cached(web, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file' / 'cache'))
    assert NAME in read_index()
    with pytest.raises(OSError, match='cache'):
        fetch(NAME)


def test_a_user_without_a_home(web, monkeypatch):
    def nowhere(path):
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'expanduser', nowhere)
    assert NAME in read_index()
    with pytest.raises(ZooError, match=r'no home folder .*: set TORCH_HOME'):
        fetch(NAME)


def test_a_zoo_that_never_answered(web):
    web.faults['index.json'] = [status(404)]
    with pytest.raises(ZooError, match=r'index.json returned 404 .* MMIRNET_ZOO='):
        fetch(NAME)


@pytest.mark.parametrize('text', [b'<html>', b'x' * (MAX_INDEX_BYTES + 1)])
def test_a_bad_index_is_not_kept(web, text):
    good, web.files['index.json'] = web.files['index.json'], text
    with pytest.raises(ZooError, match=r'index.json (is no JSON|has more than)'):
        read_index()
    assert not list(store.cache_dir().glob('index*'))
    web.files['index.json'] = good
    assert NAME in read_index()


def test_two_zoos_do_not_mix(web, monkeypatch):
    read_index()
    monkeypatch.setenv('MMIRNET_ZOO', f'{web.url}other/')
    with pytest.raises(ZooError, match=r'other/index.json returned 404'):
        fetch(NAME)


def test_a_wrong_file_does_not_enter_the_cache(web):
    web.files[FILE] = CONTENT[:-1] + b'!'
    with pytest.raises(ZooError, match=f'{FILE} does not have the SHA-256'):
        fetch(NAME)
    assert not list(store.cache_dir().glob('*.safetensors*'))


@pytest.mark.parametrize('form', ['{}', '{}/', 'file://{}'])
def test_a_folder_is_a_zoo(tmp_path, monkeypatch, form):
    folder = tmp_path / 'my zoo'
    folder.mkdir()
    for name, content in files().items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv('MMIRNET_ZOO', form.format(folder))
    assert fetch(NAME) == folder / FILE  # in place
    assert not store.cache_dir().exists()

    (folder / FILE).write_bytes(CONTENT[:-1] + b'!')
    with pytest.raises(ZooError, match=f'{FILE} is damaged'):
        fetch(NAME)
    (folder / FILE).unlink()
    with pytest.raises(ZooError, match=f'{FILE} is missing'):
        fetch(NAME)
    (folder / 'index.json').write_bytes(b' ' * (MAX_INDEX_BYTES + 1))
    with pytest.raises(ZooError, match='has more than'):
        fetch(NAME)
    (folder / 'index.json').unlink()
    with pytest.raises(ZooError, match=r'my zoo: there is no index.json'):
        fetch(NAME)


def test_a_checkout_has_a_zoo():
    path = fetch('resnet20_bireal_digits')
    assert path.parent == ROOT / 'zoo'


def test_an_installed_package_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(store, 'CHECKOUT_ZOO', tmp_path / 'zoo')
    (tmp_path / 'zoo').mkdir()
    for use in (read_index, lambda: fetch(NAME), lambda: list_models(pretrained=True)):
        with pytest.raises(ZooError, match='no zoo here: set MMIRNET_ZOO to a URL or'):
            use()


def test_names_without_weights(web):
    with pytest.raises(
        ZooError,
        match=r'no weights of resnet34_bireal_in1k; train them: '
        r'python tools/train.py configs/irnet/resnet34_bireal_in1k.py$',
    ):
        fetch('resnet34_bireal_in1k')


def test_unknown_names(web):
    with pytest.raises(ZooError, match=f"no model 'resnet20_digits'; .*{NAME}"):
        fetch('resnet20_digits')
    with pytest.raises(ZooError, match=r"no model 'zzz'; see list_models\(\)"):
        fetch('zzz')
    assert set(asked(web)) == {'index.json'}  # which might have had them


#: A Python with nothing but what a packed model needs.
FETCH = f"""
import sys
for name in ('torch', 'mmengine', 'mmpretrain'):
    sys.modules[name] = None
from mmirnet.zoo import fetch
print(fetch('{NAME}'))
"""


def test_eight_processes_download_once(web):
    web.faults[FILE] = [cut]  # a retry is no second download
    commands = [
        subprocess.Popen(
            [sys.executable, '-c', FETCH],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    answers = {command.communicate(timeout=PATIENCE)[0].strip() for command in commands}
    assert answers == {str(store.cache_dir() / FILE)}
    assert asked(web) == ['index.json', FILE, FILE]


def test_what_downloads_need_is_named(web):
    code = f"import sys; sys.modules['requests'] = None\n{FETCH}"
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert 'pip install requests filelock rich' in result.stderr.splitlines()[-1]
