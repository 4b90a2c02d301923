import copy
import functools
import math
import runpy
import sys

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from small_run import TOOLS

from mmirnet.analysis import plots
from mmirnet.analysis.plots import run as plots_of_runs
from mmirnet.binary import (
    AdaBinConv2d,
    BiPerConv2d,
    BNNConv2d,
    IRConv2d,
    ReCUConv2d,
    ReSTEConv2d,
    libra_pb,
)


def line(axis, label):
    return next(line for line in axis.lines if line.get_label() == label)


def value(axis, label, x):
    """Height of a line at x."""
    return float(np.interp(x, *line(axis, label).get_data()))


def labels(figure):
    return [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]


@pytest.fixture(scope='module')
def run(trained):
    return plots.read_run(trained)


@pytest.fixture(scope='module')
def all_figures(run):
    matrix = np.array([[3, 1], [0, 4]])
    return {
        dark: plots.method_figures(dark)
        | plots.run_figures(run, dark)[0]
        | {'confusion': plots.confusion(matrix, ['a$', '$b'], dark)}
        for dark in (False, True)
    }


def test_every_figure_has_labels(all_figures):
    figures = all_figures[False]
    assert len(figures) == 8
    for name, figure in figures.items():
        assert figure.axes[0].get_ylabel(), name
        assert any(axis.get_xlabel() for axis in figure.axes), name
        for axis in figure.axes:
            legends = [*figure.legends, axis.get_legend(), figure.axes[0].get_legend()]
            assert len(axis.lines) <= 1 or any(legends), name
    assert figures['weights'].legends


@pytest.mark.parametrize('dark', [False, True])
def test_colours_of_paper_and_ink(all_figures, dark, tmp_path):
    style = plots.DARK if dark else plots.LIGHT
    for path in plots.save(all_figures[dark], tmp_path / 'new'):
        corner = imread(path)[0, 0, :3]
        wanted = matplotlib.colors.to_rgb(style.paper)
        np.testing.assert_allclose(corner, wanted, atol=1 / 255)
    # Ticks too, which were made while saving.
    for name, figure in all_figures[dark].items():
        for axis in figure.axes:
            ticks = [*axis.get_xticklabels(), *axis.get_yticklabels()]
            colours = {tick.get_color() for tick in ticks}
            assert colours <= {style.ink}, name


def contrast(first, second):
    """WCAG's ratio, 1 to 21."""
    light = []
    for colour in first, second:
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light.append(rgb @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(light) / min(light)


@pytest.mark.parametrize('style', [plots.LIGHT, plots.DARK])
def test_colours_stand_out(style):
    assert contrast(style.paper, style.ink) > 12
    assert min(contrast(style.paper, colour) for colour in style.curves) > 2


def test_ede_family():
    left, right = plots.ede_family().axes
    assert value(left, 't = 0.1, k = 10', 1.5) == pytest.approx(10 * math.tanh(0.15))
    assert value(left, 't = 3, k = 1', 1.5) == pytest.approx(math.tanh(4.5))
    peaks = [max(line.get_ydata()) for line in right.lines]
    assert peaks == pytest.approx([1, 1, 1, 3, 10], rel=1e-3)


def test_ede_stages():
    start, middle, end, schedule = plots.ede_stages().axes
    distances = []
    for axis in start, middle, end:
        shape, g = axis.lines
        distances.append(np.abs(shape.get_ydata() - g.get_ydata()).mean())
    assert max(distances) < 0.12
    assert value(schedule, 't', 50) == pytest.approx(1)
    assert value(schedule, 'k', 0) == pytest.approx(10)
    assert value(schedule, 'k', 75) == pytest.approx(1)


def test_estimator_errors():
    left, right = plots.estimator_errors().axes
    assert value(left, 'STE (clip)', 0.25) == pytest.approx(0.75)
    assert value(left, 'approx_sign (Bi-Real Net)', 0.5) == pytest.approx(0.25)
    assert value(left, 'EDE, t = 10', 0.1) == pytest.approx(1 - math.tanh(1))
    x = (np.arange(1000) + 0.5) / 1000
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    wanted = math.sqrt(2 * ((1 - x) ** 2 * density).mean())
    heights = [line.get_ydata()[0] for line in right.lines]
    assert min(abs(height - wanted) for height in heights) < 1e-3


def test_curves(run):
    loss, accuracy, ede = plots.training_curves(run).axes
    assert labels(loss.figure) == ['training loss', 'accuracy (%)', "EDE's t and k"]
    assert ede.get_xlabel() == 'epoch'
    assert list(line(ede, 't').get_ydata()) == pytest.approx([0.1, 1.0])
    assert list(line(ede, 'k').get_ydata()) == pytest.approx([10.0, 1.0])
    assert list(accuracy.lines[0].get_ydata()) == run.curves['accuracy/top1'][1]


def test_flips_and_entropies(run):
    top, layers, _ = plots.flip_rates(run).axes
    steps, shares = run.curves['binary/flips']
    assert list(top.lines[0].get_xdata()) == steps
    assert list(top.lines[0].get_ydata()) == [100 * share for share in shares]
    names = [tick.get_text() for tick in layers.get_yticklabels()]
    assert names[0] == 'layer1.0.conv1'
    assert names[-1] == 'layer3.2.conv2'
    # matplotlib < 3.8 gives it flat.
    values = layers.collections[0].get_array().reshape(18, len(steps))
    shares = run.curves['binary/backbone.layer1.0.conv1/flips'][1]
    assert values[0, 0] == pytest.approx(100 * shares[0])

    weights, inputs, *_ = plots.entropies(run).axes
    last = run.curves['binary/backbone.layer3.2.conv2/input_entropy'][1][-1]
    assert inputs.collections[0].get_array().ravel()[-1] == pytest.approx(last)
    assert weights.collections[0].get_array().size == 18 * len(steps)


def test_colours_of_flips_have_plain_numbers(run):
    figure = plots.flip_rates(run)
    figure.canvas.draw()
    bar = figure.axes[-1].yaxis
    texts = [t.get_text() for which in (False, True) for t in bar.get_ticklabels(which)]
    assert [text for text in texts if text]
    for text in texts:
        assert not text or float(text) > 0


def test_accuracy_curves():
    short, long = np.array([[10, 10, 10]]), np.linspace(10, 60, 40)[None]
    (axis,) = plots.accuracy_curves({'short': short, 'long': long}).axes
    assert axis.get_ylim()[0] < 10  # every curve ends above the axis
    assert 100 in axis.get_xticks()


def test_weights_that_never_flip(run):
    names = [name for name in run.curves if name.endswith('/flips')]
    still = {name: ([2, 4], [0.0, 0.0]) for name in names}
    figure = plots.flip_rates(run._replace(curves=still))
    assert list(figure.axes[0].lines[0].get_ydata()) == [0, 0]


def test_latent_weights_of_a_plain_sign_are_not_balanced(trained, monkeypatch):
    plain = IRConv2d(8, 8, 3, balance=False, standardize=False, scale=None)
    torch.nn.init.normal_(plain.weight, 0.1, 0.1)
    monkeypatch.setattr('mmirnet.analysis.plots.run.build_model', lambda *_: plain)
    (weights,) = plots.read_run(trained, [2]).latent
    centres = (weights.edges[1:] + weights.edges[:-1]) / 2
    mean = np.average(centres, weights=weights.density)
    assert mean == pytest.approx(plain.weight.mean().item(), abs=0.01)


@pytest.mark.parametrize(
    'options, label',
    [
        (dict(), 'weights, balanced and standardised'),
        (dict(estimator='ste'), 'weights, balanced and standardised'),
        (dict(balance=False, standardize=False), 'values of which the sign is taken'),
    ],
)
def test_the_legend_says_what_the_weights_are(trained, monkeypatch, options, label):
    layer = IRConv2d(8, 8, 3, **options)
    monkeypatch.setattr('mmirnet.analysis.plots.run.build_model', lambda *_: layer)
    figure = plots.latent_weights(plots.read_run(trained, [2]))
    assert figure.legends[0].get_texts()[0].get_text() == label


#: Layers, what the log has of their schedule, the title of its panel, and that of a
#: histogram.
OTHERS = {
    'BNN': (BNNConv2d, {}, None, 'epoch 2'),
    'ReSTE': (ReSTEConv2d, {'o': 2.5}, "ReSTE's o", 'epoch 2: o = 2.5'),
    'ReCU': (ReCUConv2d, {'tau': 0.9}, "ReCU's tau", 'epoch 2: tau = 0.9'),
    'AdaBin': (
        AdaBinConv2d,
        {'t': 0.5, 'k': 2.0},
        "EDE's t and k",
        "epoch 2: EDE's t = 0.5, k = 2",
    ),
    'BiPer, first step': (
        functools.partial(BiPerConv2d, binarize_weight=False),
        {},
        None,
        'epoch 2',
    ),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_recipes(trained, monkeypatch, name):
    make, numbers, panel, title = OTHERS[name]
    layer = make(8, 8, 3)
    then = copy.deepcopy(layer)
    then.t_and_k[: len(numbers)] = torch.tensor([*numbers.values()])
    curves, by_epoch = plots_of_runs.read_scalars(trained)
    curves = {n: curve for n, curve in curves.items() if n not in ('t', 'k')}
    curves |= {name: ([1, 2], [0.8, value]) for name, value in numbers.items()}
    monkeypatch.setattr(plots_of_runs, 'read_scalars', lambda _: (curves, by_epoch))
    monkeypatch.setattr('mmirnet.analysis.plots.run.build_model', lambda *_: layer)
    run = plots.read_run(trained, [2])
    figures, notes = plots.run_figures(run)
    assert labels(figures['curves'])[2:] == ([panel] if panel else [])
    assert figures['weights'].axes[0].get_title() == title
    assert not [note for note in notes if 'EDEHook' in note]
    (weights,) = run.latent
    values = then.latent().flatten().numpy()
    wanted, _ = np.histogram(values, weights.edges, density=True)
    np.testing.assert_allclose(weights.density, wanted, rtol=1e-4, atol=1e-4)


def test_latent_weights(run, trained):
    assert [weights.position for weights in run.latent] == [1, 2]
    assert [(w.t, w.k) for w in run.latent] == [
        pytest.approx((0.1, 10), rel=1e-5),
        pytest.approx((1, 1), rel=1e-5),
    ]
    state = torch.load(trained / 'epoch_2.pth', weights_only=True)['state_dict']
    convs = [w for n, w in state.items() if '.layer' in n and w.dim() == 4]
    pooled = torch.cat([libra_pb(w)[0].flatten() for w in convs]).numpy()
    weights = run.latent[1]
    wanted, _ = np.histogram(pooled, weights.edges, density=True)
    np.testing.assert_allclose(weights.density, wanted, rtol=1e-4, atol=1e-4)
    # The first panel's twin holds the derivative of its epoch.
    figure = plots.latent_weights(run)
    twin = next(a for a in figure.axes if a.get_ylabel() == 'gradient factor')
    x, factor = twin.lines[0].get_data()
    np.testing.assert_allclose(factor, 1 - np.tanh(0.1 * np.array(x)) ** 2, rtol=1e-4)


def test_chosen_epochs(trained):
    run = plots.read_run(trained, [2])
    assert [weights.position for weights in run.latent] == [2]
    with pytest.raises(FileNotFoundError, match=r'no checkpoint of \[7\].*\[1, 2\]'):
        plots.read_run(trained, [1, 7])


def test_what_was_not_recorded_is_left_out(run):
    curves = {'loss': ([1], [2.0]), 'accuracy/top1': ([1], [50.0])}
    bare = run._replace(curves=curves, latent=[])
    figures, notes = plots.run_figures(bare)
    assert labels(figures['curves']) == ['training loss', 'accuracy (%)']
    assert list(figures) == ['curves']
    for hook, note in zip(('EDEHook', 'BinaryStats', 'checkpoint'), notes, strict=True):
        assert hook in note


def test_float_activations_have_no_entropy(run):
    curves = {n: c for n, c in run.curves.items() if 'input_' not in n}
    figure = plots.entropies(run._replace(curves=curves))
    assert labels(figure) == ['layer', 'entropy (bits)']


def test_confusion():
    matrix = np.array([[9, 1], [0, 0]])
    axis, bar = plots.confusion(matrix, ['a$', '$b']).axes
    assert axis.images[0].get_array().tolist() == [[90, 10], [0, 0]]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ['a$', '$b']
    assert bar.get_ylabel() == '% of the true class'


@pytest.mark.parametrize('arguments', [['--method'], ['RUN', '--style', 'dark']])
def test_tool(trained, arguments, tmp_path, monkeypatch, capsys):
    arguments = [str(trained) if word == 'RUN' else word for word in arguments]
    monkeypatch.setattr(sys, 'argv', ['plot.py', *arguments, '--out', str(tmp_path)])
    runpy.run_path(str(TOOLS / 'analysis' / 'plot.py'), run_name='__main__')
    names = sorted(path.stem for path in tmp_path.iterdir())
    wanted = {
        '--method': ['ede_family', 'ede_stages', 'estimator_errors'],
        str(trained): ['curves', 'entropy', 'flips', 'weights'],
    }
    assert names == wanted[arguments[0]]
    assert str(tmp_path / f'{names[0]}.png') in capsys.readouterr().out
