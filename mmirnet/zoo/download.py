"""Downloads over HTTP with retries, resumption and verification.

The server is not trusted: a file is kept only if its length and SHA-256 are correct.
Plain HTTP is not private and can be tampered with. It is accepted only for loopback
hosts, or with ``MMIRNET_ZOO_HTTP=1``. pooch is not used, because it cannot resume
interrupted downloads.
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

#: Number of retries, with delays of 0, 1, 2, 4 and 8 seconds. Up to one second is added
#: so that many machines do not retry at the same time.
RETRIES = Retry(total=5, backoff_factor=0.5, backoff_jitter=1.0)
#: Timeouts in seconds: to connect, and without receiving data.
TIMEOUT = (10.0, 30.0)
#: Maximum delay in seconds that a server may request (Retry-After).
LONGEST_WAIT = 60.0

__all__ = ['FileLock', 'check_address', 'download', 'get']

_PASSING = {429, 500, 502, 503, 504}
_CHUNK = 1 << 16
_T = TypeVar('_T')


class _Passing(Exception):
    """A failure that may be temporary, with the response of the server, if any."""

    def __init__(self, why: object, response: requests.Response | None = None):
        super().__init__(str(why))
        self.response = response


def check_address(url: str, source: str | None = None) -> None:
    """Refuses addresses with plain HTTP.

    Args:
        url (str): The address.
        source (str | None): The address that redirected to it, if any.

    Raises:
        ZooError: If the address is neither HTTPS nor allowed otherwise, or if HTTPS
            redirects to plain HTTP.

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
    """Downloads a small file into memory.

    Args:
        url (str): Its address.
        limit (int): Maximum size in bytes.

    Returns:
        bytes: Its content.

    Raises:
        UnreachableError: If the download fails after all retries.
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
    """Downloads a file, or the rest of it after an interrupted download.

    Args:
        url (str): Its address.
        path (Path): Target, in an existing folder. Until the download is complete, the
            file is named ``<path>.part``. Only one process at a time may call this.
        size (int): Its length in bytes.
        digest (str): Its SHA-256.

    Raises:
        UnreachableError: If the download fails after all retries. The part that was
            received is kept.
        ZooError: If the address is not allowed, or if the content has the wrong digest.
            Nothing is kept in that case.
        OSError: If the disk is full or the folder is not writable.

    Example:
        >>> download('https://example.org/x', Path('x'), 3, 'ab...')  # doctest: +SKIP
    """
    part = path.with_name(f'{path.name}.part')

    def attempt() -> None:
        if is_intact(part, size, digest):  # a process was killed before the rename
            return
        start = part.stat().st_size if part.exists() else 0
        start = start if start < size else 0
        _append(url, part, start, size)
        if is_intact(part, size, digest):
            return
        part.unlink()
        wrong = f'{url} does not have the SHA-256 {digest} of the index'
        if start:  # the part from earlier may be wrong
            raise _Passing(wrong)
        raise ZooError(wrong)

    _retry(attempt, url)
    os.replace(part, path)


def _append(url: str, part: Path, start: int, size: int) -> None:
    """Completes a partial file of `start` bytes.

    If the server sends the entire file or a range of another file, the partial file is
    truncated first.
    """
    headers = {'Range': f'bytes={start}-'} if start else {}
    with _open(url, headers) as response:
        if response.status_code == 206:
            wanted = f'bytes {start}-{size - 1}/{size}'
            if response.headers.get('Content-Range') != wanted:
                part.unlink(missing_ok=True)
                raise _Passing(f'{url} sent another range than requested')
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
            os.fsync(f.fileno())  # before the rename


@contextlib.contextmanager
def _open(
    url: str, headers: dict[str, str] | None = None
) -> Iterator[requests.Response]:
    """Returns a successful response whose body is not read yet."""
    check_address(url)
    # Compression would change the length and the ranges.
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
    answer = f'{url} returned {response.status_code} {response.reason}'
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
    """Returns the delay before the next try: back-off, or the server's request."""
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
    """Shows a progress bar if there is a terminal."""
    columns = ('{task.description}', BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(part.stem, total=size, completed=start)
        yield lambda count: progress.advance(task, count)
