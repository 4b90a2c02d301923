"""Files over HTTP: retried, resumed, and checked before they get their name.

Whoever answers is not trusted: the length and SHA-256 that are asked for decide
what is kept. Plain HTTP, which shows and lets anyone change what is sent, is for
loopback hosts, or for those who set ``MMIRNET_ZOO_HTTP=1``. pooch resumes no broken
download, so that this is not left to it.
"""

import contextlib
import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader, MaxRetryError

from ..errors import ZooError
from ..files import is_intact
from .index import UnreachableError

#: How often to try again, and how long to wait: 0, 1, 2, 4 and 8 seconds, and up to
#: one more, so that many machines do not come back together.
RETRIES = Retry(total=5, backoff_factor=0.5, backoff_jitter=1.0)
#: Seconds to connect, and without a byte.
TIMEOUT = (10.0, 30.0)
#: Seconds a server may ask to wait (Retry-After) before the next try.
LONGEST_WAIT = 60.0

__all__ = ['FileLock', 'check_address', 'download', 'get']

_PASSING = {429, 500, 502, 503, 504}
_CHUNK = 1 << 16
_T = TypeVar('_T')


class _Passing(Exception):
    """A failure that may not come again; holds the server's answer, if any."""

    def __init__(self, why: object, response: requests.Response | None = None):
        super().__init__(str(why))
        self.response = response


def check_address(url: str, source: str | None = None) -> None:
    """Refuses addresses that would be read over plain HTTP.

    Args:
        url: The address.
        source: The address that redirected there, if one did.

    Raises:
        ZooError: If the address is neither HTTPS nor allowed otherwise, or if it
            leads from HTTPS to plain HTTP.

    Example:
        >>> check_address('http://localhost:8000/')
        >>> check_address('http://zoo.example/')
        Traceback (most recent call last):
        mmirnet.errors.ZooError: http://zoo.example/ is plain HTTP: use https, ...
    """
    parts = urlsplit(url)
    if parts.scheme == 'https':
        return
    if source and urlsplit(source).scheme == 'https':
        raise ZooError(f'{source} redirects from https to {url}: refused')
    if parts.scheme != 'http':
        raise ZooError(f'{url} is not an https address')
    if not _is_loopback(parts.hostname) and os.environ.get('MMIRNET_ZOO_HTTP') != '1':
        raise ZooError(
            f'{url} is plain HTTP: use https, or set MMIRNET_ZOO_HTTP=1 to allow it'
        )


def get(url: str, limit: int) -> bytes:
    """Reads a small file.

    Args:
        url: Its address.
        limit: The most bytes it may have.

    Returns:
        Its content.

    Raises:
        UnreachableError: If it cannot be had, after retries.
        ZooError: If the address is not allowed, or the file is too long.

    Example:
        >>> text = get('https://example.org/index.json', 1000)  # doctest: +SKIP
    """

    def attempt() -> bytes:
        with _open(url) as response:
            content = bytearray()
            for block in response.iter_content(_CHUNK):
                content += block
                if len(content) > limit:
                    raise ZooError(f'{url} has more than {limit} bytes')
            return bytes(content)

    return _retry(attempt, url)


def download(url: str, path: Path, size: int, digest: str) -> None:
    """Downloads a file, or the part of it that an earlier call left open.

    Args:
        url: Its address.
        path: What it is to be called here. Its folder must exist. Until the file is
            whole it is called ``<path>.part``; one process at a time may call this.
        size: Its length in bytes.
        digest: Its SHA-256.

    Raises:
        UnreachableError: If it cannot be had, after retries. What came is kept.
        ZooError: If the address is not allowed or the content is not what was asked
            for, of which nothing is kept.
        OSError: If the disk is full or the folder cannot be written.

    Example:
        >>> download('https://example.org/x', Path('x'), 3, 'ab...')  # doctest: +SKIP
    """
    part = path.with_name(f'{path.name}.part')

    def attempt() -> None:
        if is_intact(part, size, digest):  # its process was killed just then
            return
        start = part.stat().st_size if part.exists() else 0
        start = start if start < size else 0
        _append(url, part, start, size)
        if is_intact(part, size, digest):
            return
        part.unlink()
        wrong = f'{url} does not have the SHA-256 {digest} of the index'
        if start:  # the earlier part may be to blame
            raise _Passing(wrong)
        raise ZooError(wrong)

    _retry(attempt, url)
    os.replace(part, path)


def _append(url: str, part: Path, start: int, size: int) -> None:
    """Brings a partial file of `start` bytes to its full size.

    Where the server sends the whole file after all, or another range of another
    file, the partial file is emptied.
    """
    headers = {'Range': f'bytes={start}-'} if start else {}
    with _open(url, headers) as response:
        if response.status_code == 206:
            wanted = f'bytes {start}-{size - 1}/{size}'
            if response.headers.get('Content-Range') != wanted:
                part.unlink(missing_ok=True)
                raise _Passing(f'{url} sent another range than it was asked for')
        else:
            start = 0
            length = response.headers.get('Content-Length', str(size))
            if length != str(size):
                part.unlink(missing_ok=True)
                raise ZooError(f'{url} has {length} bytes, not {size} as in the index')
        with part.open('ab' if start else 'wb') as f, _progress(part, start, size) as p:
            for block in response.iter_content(_CHUNK):
                if f.tell() + len(block) > size:
                    part.unlink()
                    raise ZooError(f'{url} has more than {size} bytes')
                f.write(block)
                p(len(block))
            if f.tell() < size:
                raise _Passing(f'{url} ended after {f.tell()} of {size} bytes')
            f.flush()
            os.fsync(f.fileno())  # the name must not outlive the content


@contextlib.contextmanager
def _open(
    url: str, headers: dict[str, str] | None = None
) -> Iterator[requests.Response]:
    """A successful answer, whose body is still to be read."""
    check_address(url)
    # Compressed, a file would have another length and other ranges.
    headers = {'Accept-Encoding': 'identity', **(headers or {})}
    with requests.Session() as session:
        session.hooks['response'].append(_check_redirect)
        try:
            with session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT
            ) as response:
                _check_status(response, url)
                yield response
        except requests.RequestException as error:
            final = isinstance(error, requests.TooManyRedirects | ValueError)
            if final or 'CERTIFICATE_VERIFY_FAILED' in str(error):
                raise UnreachableError(f'{url}: {error}') from error
            raise _Passing(f'{url}: {error}') from error


def _check_redirect(response: requests.Response, **_: object) -> None:
    if response.is_redirect:
        target = urljoin(response.url, response.headers['Location'])
        check_address(target, response.url)


def _check_status(response: requests.Response, url: str) -> None:
    if response.status_code in (200, 206):
        return
    answer = f'{url} answers {response.status_code} {response.reason}'
    if response.status_code in _PASSING:
        raise _Passing(answer, response)
    raise UnreachableError(answer)


def _retry(attempt: Callable[[], _T], url: str) -> _T:
    retries = RETRIES
    while True:
        try:
            return attempt()
        except _Passing as error:
            try:
                retries = retries.increment('GET', url, error=error)
            except MaxRetryError:
                raise UnreachableError(
                    f'{error} (after {len(retries.history) + 1} attempts)'
                ) from error
            time.sleep(_delay(retries, error.response))


def _delay(retries: Retry, response: requests.Response | None) -> float:
    """Seconds until the next try: the back-off, or what the server asks for."""
    asked = 0.0
    if response is not None:
        with contextlib.suppress(InvalidHeader):
            asked = retries.get_retry_after(response.raw) or 0.0
    return min(max(asked, retries.get_backoff_time()), LONGEST_WAIT)


def _is_loopback(host: str | None) -> bool:
    if host == 'localhost':
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or '').is_loopback
    return False


@contextlib.contextmanager
def _progress(part: Path, start: int, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, if there is one."""
    columns = ('{task.description}', BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(part.stem, total=size, completed=start)
        yield lambda count: progress.advance(task, count)
