import pytest

from mmirnet.engine.problems import report
from mmirnet.errors import ConfigError, DataError


def test_errors_of_one_kind_keep_it():
    with pytest.raises(FileNotFoundError, match=r'^a\nb$'):
        report([FileNotFoundError('a'), FileNotFoundError('b')])
    with pytest.raises(ConfigError, match=r'^a\nb$'):
        report([FileNotFoundError('a'), DataError('b')])
