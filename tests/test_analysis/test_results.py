import json

import pytest

from mmirnet.analysis.results import best, by_config


def line(epochs, digest, accuracy, **fields):
    curve = [0.0] * (epochs - 1) + [accuracy]
    made = dict(config='a', digest=digest, seed=0, accuracy=accuracy, curve=curve)
    return dict(made, **fields)


@pytest.mark.parametrize(
    'order, wanted',
    [
        ('short long', ['long']),
        ('long short', ['long']),
        ('long newer', ['newer']),
        ('newer long', ['long']),  # what comes later is newer
        ('long newer newer short', ['newer']),  # one run per seed
        ('newer long newer', ['newer']),
    ],
)
def test_most_epochs_win_then_the_newest_settings(order, wanted):
    runs = dict(
        short=line(2, 'short', 90.0),
        long=line(3, 'long', 50.0),
        newer=line(3, 'newer', 40.0),
    )
    groups = by_config([runs[name] for name in order.split()])
    assert [r['digest'] for r in groups['a']] == wanted


def test_seeds_in_other_precisions_count():
    half = line(3, 'bfloat16', 60.0, recipe='a')
    single = line(3, 'float32', 62.0, recipe='a', seed=1)
    again = line(3, 'float32', 61.0, recipe='a')
    other = line(3, 'other', 10.0, recipe='b')
    assert by_config([other, half, single])['a'] == [half, single]
    assert by_config([half, single, again])['a'] == [again, single]


def test_the_budget_is_that_of_the_run_not_of_its_curve():
    every_tenth = dict(line(2, 'long', 50.0), epochs=20)
    groups = by_config([every_tenth, line(3, 'short', 60.0)])
    assert groups['a'] == [every_tenth]


def test_best_epoch():
    old = json.loads('{"curve": [50.0, 70.5, 70.5, 60.0]}')
    assert best(old) == (70.5, 2)
    assert best(dict(old, best=71.0, best_epoch=20)) == (71.0, 20)
