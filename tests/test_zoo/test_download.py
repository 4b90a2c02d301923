import shutil
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from urllib3 import Retry
from web import (
    CONTENT,
    MIDDLE,
    NAME,
    STALL,
    another_range,
    cut,
    cut_unannounced,
    endless,
    entry,
    ranged,
    serve,
    stall,
    status,
    whole,
)

from mmirnet.zoo import ZooError, download
from mmirnet.zoo.index import UnreachableError

FILE = entry()['file']
REST = f'bytes={MIDDLE}-'


@pytest.fixture
def load(web, tmp_path):
    """Downloads the file; gives its content."""

    def load(content=CONTENT):
        path = tmp_path / FILE
        digest = sha256(content).hexdigest()
        download.download(f'{web.url}{FILE}', path, len(content), digest)
        return path.read_bytes()

    return load


@pytest.fixture
def part(tmp_path):
    return tmp_path / f'{FILE}.part'


def ranges(web):
    return [asked for name, asked in web.seen if name == FILE]


def test_a_download_leaves_the_file_and_nothing_else(load, web, tmp_path):
    assert load() == CONTENT
    assert ranges(web) == [None]
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize('code', [429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(load, web, code):
    web.faults[FILE] = [status(code), status(code)]
    assert load() == CONTENT
    assert ranges(web) == [None] * 3


@pytest.mark.parametrize('fault', [cut, cut_unannounced, stall])
def test_a_broken_transfer_goes_on_where_it_ended(load, web, fault):
    web.faults[FILE] = [fault]
    begun = time.monotonic()
    assert load() == CONTENT
    assert ranges(web) == [None, REST]
    assert time.monotonic() - begun < STALL


def test_a_later_call_goes_on_too(load, web, part):
    web.faults[FILE] = [cut] + [status(503)] * 3
    with pytest.raises(UnreachableError):
        load()
    assert part.stat().st_size == MIDDLE
    assert load() == CONTENT
    assert ranges(web)[-1] == REST


@pytest.mark.parametrize('answer, asked', [(whole, 1), (another_range, 2)])
def test_what_does_not_continue_the_part_replaces_it(load, web, part, answer, asked):
    part.write_bytes(CONTENT[:MIDDLE])
    web.faults[FILE] = [answer]
    assert load() == CONTENT
    assert ranges(web) == [REST, None][:asked]


@pytest.mark.parametrize(
    'left, asked',
    [
        (CONTENT, []),  # killed before it was renamed
        (b'other' * 1000, ['bytes=5000-', None]),
        (CONTENT[:-1] + b'!', [None]),
        (CONTENT + b'!', [None]),
    ],
    ids=['whole', 'other content', 'last byte', 'too long'],
)
def test_parts_that_were_left(load, web, part, left, asked):
    part.write_bytes(left)
    assert load() == CONTENT
    assert ranges(web) == asked
    assert not part.exists()


@pytest.mark.parametrize(
    'sent, message',
    [
        (CONTENT[:-1] + b'!', 'does not have the SHA-256'),
        (CONTENT[:-1], f'has {len(CONTENT) - 1} bytes, not {len(CONTENT)}'),
        (CONTENT + b'!', f'has {len(CONTENT) + 1} bytes, not {len(CONTENT)}'),
    ],
    ids=['bytes', 'too short', 'too long'],
)
def test_wrong_content_is_not_kept(load, web, tmp_path, sent, message):
    web.files[FILE] = sent
    with pytest.raises(ZooError, match=message):
        load()
    assert ranges(web) == [None]
    assert not list(tmp_path.iterdir())
    web.files[FILE] = CONTENT
    assert load() == CONTENT


def test_never_more_on_disk_than_asked_for(load, web, tmp_path, monkeypatch):
    sizes = []
    unlink = download.Path.unlink
    monkeypatch.setattr(
        download.Path,
        'unlink',
        lambda p, **k: (sizes.append(p.stat().st_size), unlink(p, **k)),
    )
    web.faults[FILE] = [endless]
    with pytest.raises(ZooError, match=f'has more than {len(CONTENT)} bytes'):
        load()
    assert 0 < sizes[0] <= len(CONTENT)
    assert not list(tmp_path.iterdir())


def test_redirects_to_another_host_are_followed(load, web):
    elsewhere = web.url.replace('127.0.0.1', 'localhost')
    web.files['elsewhere'] = CONTENT
    web.faults[FILE] = [status(302, Location=f'{elsewhere}elsewhere')]
    assert load() == CONTENT
    assert [name for name, _ in web.seen] == [FILE, 'elsewhere']


def test_a_resumed_download_keeps_its_range_over_a_redirect(load, web, part):
    part.write_bytes(CONTENT[:MIDDLE])
    web.files['elsewhere'] = CONTENT
    web.faults[FILE] = [status(302, Location='/elsewhere')]
    assert load() == CONTENT
    assert web.seen == [(FILE, REST), ('elsewhere', REST)]


def test_redirects_to_plain_http_are_refused(load, web):
    web.faults[FILE] = [status(302, Location='http://zoo.example/x')]
    with pytest.raises(ZooError, match=r'http://zoo.example/x is plain HTTP: use'):
        load()
    assert ranges(web) == [None]


def test_endless_redirects_end(load, web):
    web.faults[FILE] = [status(302, Location=f'/{FILE}')] * 40
    with pytest.raises(UnreachableError, match='redirects'):
        load()


@pytest.mark.parametrize('code', [400, 403, 404, 410])
def test_final_answers_are_final(load, web, code):
    web.faults[FILE] = [status(code)]
    with pytest.raises(UnreachableError, match=rf'{FILE} returned {code} \w+'):
        load()
    assert ranges(web) == [None]


def test_retries_end(load, web):
    web.faults[FILE] = [status(500)] * 9
    with pytest.raises(UnreachableError, match=r'returned 500 .* \(after 4 attempts\)'):
        load()
    assert len(ranges(web)) == 4


def test_nobody_there(load, web):
    web.url = 'http://127.0.0.1:9/'  # discard: nothing listens
    with pytest.raises(UnreachableError, match=r'127.0.0.1:9/.*\(after 4 attempts\)'):
        load()


@pytest.mark.parametrize(
    'asked, waited',
    [('7', 7), ('86400', download.LONGEST_WAIT), ('soon', 0), (None, 0)],
)
def test_servers_say_how_long_to_wait(load, web, monkeypatch, asked, waited):
    naps = []
    monkeypatch.setattr(download, 'time', SimpleNamespace(sleep=naps.append))
    headers = {'Retry_After': asked} if asked else {}
    web.faults[FILE] = [status(429, **headers)]
    assert load() == CONTENT
    assert naps == [waited]


def test_the_wait_grows(load, web, monkeypatch):
    naps = []
    monkeypatch.setattr(download, 'time', SimpleNamespace(sleep=naps.append))
    monkeypatch.setattr(
        download, 'RETRIES', Retry(total=5, backoff_factor=0.5, backoff_jitter=0.2)
    )
    web.faults[FILE] = [status(500)] * 5
    load()
    for nap, least in zip(naps, [0, 1, 2, 4, 8], strict=True):
        assert least <= nap <= least + 0.2


def test_small_files_have_a_limit(web):
    url = f'{web.url}{FILE}'
    assert download.get(url, len(CONTENT)) == CONTENT
    with pytest.raises(ZooError, match=f'has more than {len(CONTENT) - 1} bytes'):
        download.get(url, len(CONTENT) - 1)
    web.faults[FILE] = [cut, ranged]
    assert download.get(url, len(CONTENT)) == CONTENT


LOCAL = ('http://127.0.0.1:1/', 'http://localhost/', 'http://[::1]:8000/x')
REMOTE = (
    'http://zoo.example/',
    'http://127.0.0.1.example/',
    'http://localhost.example/',
    'http://127.0.0.1@zoo.example/',
    'http://10.0.0.1/',
)


@pytest.mark.parametrize('url', ['https://zoo.example/', *LOCAL])
def test_allowed_addresses(url):
    download.check_address(url)


@pytest.mark.parametrize('url', REMOTE)
def test_plain_http_is_refused(url):
    with pytest.raises(ZooError, match='is plain HTTP: use https, or set'):
        download.check_address(url)


@pytest.mark.parametrize('url', ['ftp://localhost/', 'file:///etc/passwd', 'x'])
def test_other_addresses_are_refused(url):
    with pytest.raises(ZooError, match='is not an https address'):
        download.check_address(url)


@pytest.mark.parametrize('url', REMOTE)
def test_plain_http_on_demand(monkeypatch, url):
    monkeypatch.setenv('MMIRNET_ZOO_HTTP', '1')
    download.check_address(url)


@pytest.mark.parametrize('url', [*LOCAL, *REMOTE])
def test_https_never_leads_to_http(monkeypatch, url):
    monkeypatch.setenv('MMIRNET_ZOO_HTTP', '1')
    with pytest.raises(ZooError, match='redirects from https'):
        download.check_address(url, 'https://zoo.example/')


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    """A key, and a certificate for 127.0.0.1 that it signed itself."""
    path = tmp_path_factory.mktemp('tls') / 'both.pem'
    command = f'openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {path}'
    command += f' -out {path}.2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1'
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f'{path}.2').read_bytes())
    return path


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl is missing')
def test_https(certificate, monkeypatch, tmp_path):
    with serve({FILE: CONTENT}, certificate) as web:
        path = tmp_path / FILE
        file = (f'{web.url}{FILE}', path, len(CONTENT), entry()['sha256'])
        with pytest.raises(UnreachableError, match='CERTIFICATE_VERIFY_FAILED') as e:
            download.download(*file)
        assert 'attempts' not in str(e.value)
        assert not web.seen

        monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(certificate))
        plain = web.url.replace('https', 'http')
        web.faults[FILE] = [status(302, Location=f'{plain}x')]
        with pytest.raises(ZooError, match='redirects from https to http://127'):
            download.download(*file)

        web.faults[FILE] = [cut]
        download.download(*file)
        assert ranges(web)[1:] == [None, REST]
        assert path.read_bytes() == CONTENT


def test_the_name_of_the_file_is_in_the_bar(load, monkeypatch, capsys):
    monkeypatch.setattr(download.sys.stderr, 'isatty', lambda: True, raising=False)
    load()
    assert NAME in capsys.readouterr().err
