import collections
import datetime
import enum
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmirnet.engine.plain import plain
from mmirnet.errors import CheckpointError


class Colour(enum.Enum):
    RED = 'red'


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    """A kind of string."""


Point = collections.namedtuple('Point', 'x y')

VALUES = [
    (None, None),
    (True, True),
    (b'', bytearray()),
    (b'a', b'a'),
    (2**80, 2**80),
    (1j, 1j),
    (ConfigDict(a=ConfigDict(b=[ConfigDict(c=1)])), dict(a=dict(b=[dict(c=1)]))),
    (collections.defaultdict(list, a=[1]), dict(a=[1])),
    (collections.OrderedDict(a=(1, 2)), collections.OrderedDict(a=(1, 2))),
    (collections.Counter('aab'), collections.Counter(a=2, b=1)),
    (collections.deque([1, np.int64(2)]), [1, 2]),
    (dict(a=dict(b=1)).keys(), {'a'}),
    ({1, np.float64(2.5)}, {1, 2.5}),
    (frozenset({1}), {1}),
    (Point(1, np.float32(2)), (1, 2.0)),
    (range(3), [0, 1, 2]),
    (np.float64(0.1), 0.1),
    (np.float16(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_('x'), 'x'),
    ({np.int64(3): np.uint8(1)}, {3: 1}),
    (np.array(['a', 'b']), ['a', 'b']),
    (np.arange(3, dtype='i2'), [0, 1, 2]),
    (np.zeros(0), []),
    (np.array([dict(a=Path('x'))], dtype=object), [dict(a='x')]),
    (Path('/data/images'), str(Path('/data/images'))),
    (datetime.date(2024, 2, 29), '2024-02-29'),
    (Colour.RED, 'red'),
    (Level.HIGH, 3),
    (Text('t'), 't'),
    (torch.float16, torch.float16),
    (torch.device('cpu'), torch.device('cpu')),
    (torch.Size([2]), torch.Size([2])),
]


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(('value', 'expected'), VALUES, ids=lambda v: repr(v)[:30])
def test_what_is_plain_is_loaded(value, expected):
    found = saved_and_loaded(plain(dict(key=[value]), 'x'))['key'][0]
    assert type(found) is type(expected)
    assert found == expected


def test_what_is_plain_already_stays_as_it_is():
    weights = torch.nn.BatchNorm2d(2).state_dict()
    array = np.arange(3.0)
    history = HistoryBuffer([1.0], [1])
    value = dict(state_dict=weights, log=[history, (array, {1}, 'a')])
    assert plain(value, 'x') is value
    assert weights._metadata  # batch norms know their version by it


@pytest.mark.parametrize(
    'value', [object(), len, dict, lambda: 0, np.array([object()], dtype=object)]
)
def test_what_is_no_data_is_named(value):
    message = r"metainfo\['palette'\]\['a'\](\[0\])* is a builtins\.\w+, which"
    with pytest.raises(CheckpointError, match=message):
        plain(dict(palette=ConfigDict(a=[value])), 'metainfo')
