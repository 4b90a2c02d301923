import json

import pytest
from web import CONTENT, NAME, entry

from mmirnet.zoo import Entry, ZooError, parse_index


def index(models=None, **fields):
    return json.dumps({'format': 1, 'models': models or {NAME: entry()}, **fields})


def test_an_entry_has_what_the_index_says():
    more = dict(epochs=25, seed=0, date='2026-11-23', command='python x', log='a.jsonl')
    assert parse_index(index({NAME: entry(**more)}), 'here') == {
        NAME: Entry(**entry(**more))
    }


def test_what_may_be_absent_and_what_is_new():
    found = parse_index(index({NAME: entry(epochs=None, colour='red')}), 'here')
    assert (found[NAME].epochs, found[NAME].log) == (None, None)


@pytest.mark.parametrize(
    'text, message',
    [
        ('<html>', 'is no JSON'),
        (b'\xff\xfe{', 'is no JSON'),
        ('[' * 100_000, 'is no JSON'),
        ('9' * 5000, 'is no JSON'),
        ('[]', 'has format None'),
        ('{}', 'has format None'),
        (index(format=2), 'has format 2, this version reads 1'),
        (index(format='1' * 999), r"has format '1+\.\.\., this"),
        ('{"format": 1}', 'has no models'),
        ('{"format": 1, "models": []}', 'has no models'),
        (index({'../x': entry()}), "'../x' is no name of a model"),
        (index({NAME: 3}), f'{NAME} must be an object, not 3'),
    ],
)
def test_texts_that_are_no_index(text, message):
    with pytest.raises(ZooError, match=message) as error:
        parse_index(text, 'https://zoo.example/')
    assert str(error.value).startswith('zoo https://zoo.example/: ')
    assert len(str(error.value)) < 200


@pytest.mark.parametrize('field', ['file', 'bytes', 'sha256', 'config', 'metrics'])
def test_missing_fields(field):
    raw = entry()
    del raw[field]
    with pytest.raises(ZooError, match=rf'^zoo here: {NAME}\.{field} is missing$'):
        parse_index(index({NAME: raw}), 'here')


SHA = entry()['sha256']


@pytest.mark.parametrize(
    'field, value',
    [
        *[
            (field, value)
            for field in ('file', 'log')
            for value in (
                '../x.safetensors',
                '/etc/passwd',
                'a/b',
                'a\\b',
                '..',
                '.hidden',
                '',
                'a\0b',
                'a\nb',
                'C:x',
                'x' * 300,
                7,
            )
        ],
        ('file', f'{NAME}-00000000.safetensors'),
        ('file', f'{NAME}-{SHA[:8]}.py'),
        *[('bytes', v) for v in (0, -1, 1 << 31, 10**30, 1.5, True, '9')],
        *[('sha256', v) for v in (SHA[:63], SHA.upper(), 'g' * 64, f'{SHA}\n', 1)],
        ('config', 1),
        ('dataset', ['digits']),
        *[('metrics', v) for v in (90.0, {'a': '90'}, {'a': float('inf')})],
        *[('epochs', v) for v in (-1, 1.5, '25', True)],
        ('seed', 1 << 64),
        ('date', 20261123),
        ('command', ['python']),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_wrong_values(field, value):
    text = index({NAME: entry(CONTENT, **{field: value})})
    with pytest.raises(ZooError, match=rf'^zoo here: {NAME}\.{field} must ') as error:
        parse_index(text, 'here')
    assert len(str(error.value)) < 250
