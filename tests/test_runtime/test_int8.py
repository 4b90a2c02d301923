"""8-bit layers give the simulation's bits on every instruction set."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_networks import int8_network, normalised, pixels_of, with_statistics
from networks import mixed_network, warm_up
from torch import nn

from mmirnet.binary import IRConv2d
from mmirnet.errors import NonFiniteError
from mmirnet.packed import Simulation, pack
from mmirnet.packed.quantising import quantise
from mmirnet.runtime import Session, instruction_sets, plan


def simulated(packed, images):
    with torch.no_grad():
        return Simulation(packed)(torch.from_numpy(images)).numpy()


def check(packed, pixels):
    """The same logits of pixels and of floats, whatever computes them."""
    images = normalised(pixels, packed.input)
    wanted = simulated(packed, images)
    assert len(np.unique(wanted)) > 1
    for isa in instruction_sets():
        for threads in (1, 2):
            session = Session(packed, threads, isa)
            for given_images in (pixels[:1], pixels, images):
                logits = session.predict(given_images)
                np.testing.assert_array_equal(logits, wanted[: len(logits)])


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 4),
    out=st.integers(2, 150),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(9, 20), st.integers(9, 20)),
    data=st.data(),
)
def test_shapes(channels, out, kernel, stride, size, data):
    padding = data.draw(st.integers(0, kernel - 1))
    size = tuple(side + 8 * kernel for side in size)
    packed = int8_network(channels, out, size, kernel, stride=stride, padding=padding)
    check(packed, pixels_of(packed))


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(2, 140),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    threads=st.sampled_from([1, 2, 3, 16]),
    after=st.sampled_from(['ReLU', 'binary']),
    data=st.data(),
)
def test_a_pooling_has_its_rows_made(out, kernel, stride, size, threads, after, data):
    padding = tuple(data.draw(st.integers(0, side // 2)) for side in kernel)
    stride = min(stride[0], kernel[0]), stride[1]
    torch.manual_seed(out)
    network = nn.Sequential(
        nn.Conv2d(3, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.MaxPool2d(kernel, stride, padding),
        nn.ReLU() if after == 'ReLU' else IRConv2d(out, out, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(out, 5),
    )
    packed = with_statistics(network, size)
    packed = quantise(packed, [normalised(pixels_of(packed), packed.input)])
    assert plan.fuse(packed)[0][0].by_rows
    pixels = pixels_of(packed)
    wanted = simulated(packed, normalised(pixels, packed.input))
    for isa in instruction_sets():
        session = Session(packed, threads, isa)
        for images in (pixels[:1], pixels):
            np.testing.assert_array_equal(
                session.predict(images), wanted[: len(images)]
            )


class PooledAndAdded(nn.Module):
    """Two layers read what the convolution makes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5)
        )

    def forward(self, x):
        x = self.conv(x)
        return self.head(self.pool(x) + x)


def test_what_another_layer_reads_is_whole():
    torch.manual_seed(0)
    packed = with_statistics(PooledAndAdded(), (9, 9))
    packed = quantise(packed, [normalised(pixels_of(packed), packed.input)])
    assert not any(step.by_rows for step in plan.fuse(packed)[0])
    check(packed, pixels_of(packed))


class PooledResidual(nn.Module):
    """A sum of a pooled convolution and of what the convolution reads."""

    def __init__(self, kernel):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, kernel, padding=kernel // 2)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
        )

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.pool(self.conv(x)) + x)


@pytest.mark.parametrize('kernel, size', [(3, (40, 40)), (9, (60, 160))])
@pytest.mark.parametrize('threads', [1, 2, 8])
def test_what_rows_are_made_of_is_not_overwritten(kernel, size, threads):
    torch.manual_seed(0)
    packed = with_statistics(PooledResidual(kernel), size)
    packed = quantise(packed, [normalised(pixels_of(packed), packed.input)])
    assert any(step.by_rows for step in plan.fuse(packed)[0])
    pixels = pixels_of(packed, 1)
    wanted = simulated(packed, normalised(pixels, packed.input))
    got = Session(packed, threads).predict(pixels)
    np.testing.assert_array_equal(got, wanted)


def test_rows_that_no_window_reads_do_not_depend_on_threads():
    """A NaN there is found, or not, with any number of threads."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(1, 7),
        nn.Flatten(),
    ).eval()
    nn.init.constant_(network[0].weight, 4e37)
    nn.init.zeros_(network[1].weight)
    packed = with_statistics(network, (64, 64))
    packed.input['mean'] = [1.0] * 3
    packed = quantise(packed, [normalised(pixels_of(packed), packed.input)])
    pixels = np.full((1, 64, 64, 3), 10, np.uint8)
    pixels[0, 5] = 255
    for threads in (1, 2, 8, 16, 64):
        with pytest.raises(NonFiniteError):
            Session(packed, threads).predict(pixels)


def test_dilation():
    torch.manual_seed(0)
    network = warm_up(mixed_network(), 3, 12, 12)
    network[3] = torch.nn.Conv2d(24, 48, 3, padding=2, dilation=2)
    packed = pack(network, (12, 12))
    images = normalised(pixels_of(packed), packed.input)
    packed = quantise(packed, [images], activations=True)
    assert packed.graph[3]['op'] == 'conv2d_int8'
    check(packed, pixels_of(packed))


@pytest.mark.parametrize('value', [-128, -65, -64, 64, 65, 127])
def test_the_largest_sums_do_not_saturate(value):
    """All weights and all pixels at their ends."""
    packed = int8_network(3, 16, (9, 9), padding=1)
    for name, array in packed.tensors.items():
        if name.endswith('weight_int8'):
            packed.tensors[name] = np.full_like(array, value)
    check(packed, pixels_of(packed) | 0xFC)


@pytest.mark.parametrize('sign', [-1.0, 1.0])
@pytest.mark.parametrize('channels', [6, 40, 128])
def test_the_largest_sums_of_one_bit_weights_do_not_overflow(channels, sign):
    """All weights alike, and all activations at their end."""
    torch.manual_seed(0)
    plain = dict(balance=False, standardize=False, scale=None)
    binary = IRConv2d(
        channels, 40, 3, padding=1, bias=False, binarize_input=False, **plain
    )
    network = nn.Sequential(
        nn.Conv2d(3, channels, 1),
        nn.ReLU(),
        binary,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 5),
    )
    with torch.no_grad():
        network[0].weight.abs_()
        binary.weight.fill_(sign)
    packed = with_statistics(network, (9, 9))
    dim = normalised(pixels_of(packed) // 4, packed.input)
    packed = quantise(packed, [dim], activations=True)
    assert packed.graph[2]['op'] == 'binary_conv2d_int8'
    check(packed, pixels_of(packed) | 0xFC)


def test_halves_round_to_even():
    packed = int8_network(3, 16, (9, 9))
    packed.graph[2]['input_scale'] = 2.0  # of multiples of a quarter
    for name in ('0.scale', '0.table'):
        packed.tensors[name] = np.full_like(packed.tensors[name], 0.25)
    check(packed, pixels_of(packed))


def test_floats_that_are_no_pixels_become_the_nearest():
    packed = int8_network(3, 8, (9, 9))
    pixels = pixels_of(packed)
    images = normalised(pixels + 0.3, packed.input)
    np.testing.assert_array_equal(
        Session(packed, 1).predict(images), Session(packed, 1).predict(pixels)
    )
    beyond = normalised(np.full(pixels.shape, 300.0), packed.input)
    np.testing.assert_array_equal(
        Session(packed, 1).predict(beyond.astype('f4')),
        Session(packed, 1).predict(np.full_like(pixels, 255)),
    )


def test_nan_is_not_lost_in_a_byte():
    packed = int8_network(3, 8, (9, 9))
    images = normalised(pixels_of(packed), packed.input)
    images[1, 2, 3, 4] = np.nan
    with pytest.raises(NonFiniteError, match='image 1 holds nan'):
        Session(packed, 1).predict(images)
