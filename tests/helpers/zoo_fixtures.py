"""A zoo of one's own for every test."""

import pytest
import web as servers
from urllib3 import Retry

from mmirnet.zoo import download


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A cache of its own, no proxy, no waiting."""
    for name in ('MMIRNET_ZOO', 'MMIRNET_ZOO_HTTP', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setattr(download, 'RETRIES', Retry(total=3, backoff_factor=0))
    monkeypatch.setattr(download, 'TIMEOUT', (10, 1))


@pytest.fixture
def web(monkeypatch):
    """The small zoo behind a URL, which is the one in use."""
    with servers.serve(servers.files()) as server:
        monkeypatch.setenv('MMIRNET_ZOO', server.url)
        yield server
