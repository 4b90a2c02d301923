import numpy as np
import pytest
import torch
from int8_networks import int8_network, normalised, pixels_of, with_statistics
from networks import EveryOperation, mixed_network, warm_up
from torch import nn

from mmirnet.errors import ConfigError, PackedFileError, UnsupportedModelError
from mmirnet.packed import Simulation, format, pack, read, write
from mmirnet.packed.fields import Reject
from mmirnet.packed.format import version_of
from mmirnet.packed.latent import latent_state_dict
from mmirnet.packed.ops.int8 import check_window
from mmirnet.packed.ops.windows import geometry
from mmirnet.packed.quantising import quantise
from mmirnet.runtime import Session

RAW = dict(mean=[0.0] * 3, std=[1.0] * 3)


def kinds(packed):
    return [op['op'] for op in packed.graph if op['op'].endswith(('_int8', 'l_conv2d'))]


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return with_statistics(warm_up(mixed_network(), 3, 9, 9), (9, 9))


@pytest.fixture(scope='module')
def images(network):
    return normalised(pixels_of(network, 4), network.input)


def test_ends_and_activations_are_chosen_apart(network, images):
    ends = ['pixel_conv2d', 'linear_int8']
    assert kinds(quantise(network, [images])) == ends
    one_bit = quantise(network, [images], ends=False, activations=True)
    assert kinds(one_bit) == ['binary_conv2d_int8']
    with pytest.raises(ConfigError, match='no layer with 1-bit weights and float'):
        quantise(one_bit, [images], ends=False, activations=True)


def test_the_network_stays_as_it_is(network, images):
    before = {name: array.copy() for name, array in network.tensors.items()}
    graph = [dict(op) for op in network.graph]
    quantise(network, [images], activations=True)
    assert network.graph == graph
    assert all((network.tensors[name] == array).all() for name, array in before.items())


def test_groups_stay_float():
    torch.manual_seed(0)
    packed = with_statistics(warm_up(EveryOperation(), 3, 9, 9), (9, 9))
    images = normalised(pixels_of(packed), packed.input)
    assert kinds(quantise(packed, [images])) == ['conv2d_int8', 'linear_int8']


def test_weights_of_pixels_round_so_that_errors_cancel():
    from mmirnet.packed.quantising import _likeness, _rounded_for_pixels, _scaled

    weight = np.random.default_rng(0).standard_normal((32, 3, 5, 5))
    made, scale = _rounded_for_pixels(weight)
    assert made.dtype == np.int8
    assert np.abs(made.astype(int)).max() == 64
    likeness = _likeness((3, 5, 5))

    def error(integers):
        e = (integers - weight / scale[:, None, None, None]).reshape(32, -1)
        return np.einsum('oi,ij,oj->o', e, likeness, e).mean()

    plain = np.rint(_scaled(weight, 64)[0])
    assert error(made) < error(plain) / 5
    # Too many weights to look at together are rounded one by one.
    large = np.random.default_rng(0).standard_normal((2, 3, 19, 19))
    made, _ = _rounded_for_pixels(large)
    np.testing.assert_array_equal(made, np.rint(_scaled(large, 64)[0]))


def test_a_range_that_the_network_states_needs_no_images():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardtanh(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)
    )
    packed = with_statistics(nn.Sequential(*network, nn.Flatten()), (8, 8))
    fields = quantise(packed).graph[3]
    assert fields['op'] == 'conv2d_int8'
    assert (fields['input_scale'], fields['zero_point']) == (127.0, 128)


def test_a_range_that_is_not_known_asks_for_images(network):
    with pytest.raises(ConfigError, match=r'range of .* is not known without images'):
        quantise(network)


@pytest.mark.parametrize(
    ('low', 'high', 'scale', 'zero'),
    [(0.0, 5.0, 51.0, 0), (-5.0, 0.0, 51.0, 255), (2.0, 5.1, 50.0, 0)],
)
def test_ranges(low, high, scale, zero):
    from mmirnet.packed.quantising import _input_fields

    fields = _input_fields(low, high)
    assert fields['zero_point'] == zero
    assert fields['input_scale'] == pytest.approx(scale)


def test_pixels_that_float32_loses_are_refused(network, images):
    packed = format.check(
        format.Packed(
            network.input | dict(mean=[1e9] * 3, std=[1e6] * 3),
            network.graph,
            network.tensors,
            dtypes=network.dtypes,
        )
    )
    with pytest.raises(UnsupportedModelError, match='take fp32 ends'):
        quantise(packed, [images])


@pytest.mark.parametrize(
    ('scale', 'message'),
    [
        (1, None),
        (1 / 255, 'its images from 0 to 1 are no pixels from 0 to 255; pack'),
        (-1, 'its images from -255 to -0 are no pixels'),
        (None, 'without images it is not known whether they are pixels'),
    ],
)
def test_images_show_that_they_are_pixels(scale, message):
    """Where there is no mean and std; floats up to 1 would all become 0 or 1."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(), nn.Flatten())
    packed = pack(network.append(nn.Linear(4 * 6 * 7, 5)), (8, 9))
    given = [] if scale is None else [scale * normalised(pixels_of(packed), RAW)]
    if message is None:
        assert kinds(quantise(packed, given)) == ['pixel_conv2d', 'linear_int8']
        return
    with pytest.raises((ConfigError, UnsupportedModelError), match=message):
        quantise(packed, given)


def test_padding_is_the_mean_of_the_pixels():
    """Where all pixels are the mean, a normalised image is 0, and so are sums."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False))
    network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    packed = with_statistics(network, (6, 7))
    packed.input['mean'] = [10.0, 200.0, 77.0]
    pixels = np.broadcast_to(np.uint8([10, 200, 77]), (1, 6, 7, 3))
    assert abs(Session(quantise(packed), 1).predict(pixels)).max() < 1e-5


def test_logits_stay_near(network, images):
    """Of a network without signs, which would turn."""
    plain = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    torch.manual_seed(0)
    packed = with_statistics(plain, (9, 9))
    with torch.no_grad():
        wanted = Simulation(packed)(torch.from_numpy(images)).numpy()
    got = Session(quantise(packed, [images]), 1).predict(images)
    assert abs(got - wanted).max() < 0.02 * abs(wanted).max()


def test_the_file_says_the_version_that_it_needs(network, images, tmp_path):
    assert version_of(network) == 2
    packed = quantise(network, [images], activations=True)
    assert version_of(packed) == 4
    path = tmp_path / 'model.safetensors'
    write(packed, path)
    logits = [Session(net, 1).predict(images) for net in (packed, read(path))]
    np.testing.assert_array_equal(*logits)


def test_training_does_not_go_on(network, images):
    message = '8-bit integers, from which training .* classify with mmirnet.runtime'
    with pytest.raises(PackedFileError, match=message):
        latent_state_dict(quantise(network, [images]))


def _last(**fields):
    return lambda packed: packed.graph[-1].update(fields)


def _name(packed, index, role):
    return f'{packed.graph[index]["dst"]}.{role}'


def _tensor(index, role, change):
    def apply(packed):
        name = _name(packed, index, role)
        packed.tensors[name] = change(packed.tensors[name])

    return apply


def _type(index, role, kind):
    return lambda packed: packed.dtypes.update({_name(packed, index, role): kind})


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (_last(zero_point=256), 'zero_point must be an integer'),
        (
            _last(input_scale=0.1),
            'input_scale must be a',
        ),
        (
            _last(input_scale=0.0),
            'input_scale must be a',
        ),
        (_last(input_scale=-1.0), 'input_scale must be'),
        (_tensor(-1, 'scale', lambda a: a[:-1]), 'scale'),
        (_tensor(0, 'pixels', lambda a: 2 * a), 'pixels differ from std and mean'),
        (_tensor(0, 'table', lambda a: a[1:]), 'table .* is not of shape'),
        (lambda p: p.graph[0].update(padding=0), 'table .* is not of shape'),
        (_type(-1, 'weight_int8', 'F32'), r"not \('I8',\)"),
    ],
)
def test_hostile_files_are_refused(network, images, change, match):
    packed = quantise(network, [images])
    packed.graph = [dict(op) for op in packed.graph]
    packed.tensors, packed.dtypes = dict(packed.tensors), dict(packed.dtypes)
    format.check(packed)
    change(packed)
    with pytest.raises(PackedFileError, match=match):
        format.check(packed)


def test_onnx_gives_the_same_predictions(network, images, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    from mmirnet.packed.onnx import export, largest_difference

    packed = int8_network(3, 20, (11, 9), stride=2, padding=1)
    path = tmp_path / 'model.onnx'
    export(packed, path)
    images = normalised(pixels_of(packed, 6), packed.input)
    assert largest_difference(packed, path, images) <= 1e-6
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    logits = session.run(None, {'input': images})[0]
    wanted = Session(packed, 1).predict(images)
    np.testing.assert_array_equal(logits.argmax(1), wanted.argmax(1))


def test_rows_that_would_not_fit_are_refused():
    """Padding of a window that is far wider than its image."""
    packed = int8_network(3, 8, (9, 9))
    fields = dict(packed.graph[2], dilation=64, padding=[0, 127, 0, 127])
    with pytest.raises(Reject, match='rows of a window of bytes too large'):
        check_window((3000, 9, 9), geometry(fields, (3, 3)))
    with pytest.raises(Reject, match='window of bytes too large'):
        check_window((7282, 9, 9), geometry(fields, (3, 3)))
