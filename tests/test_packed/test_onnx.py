import copy

import numpy as np
import pytest
import torch
from networks import EveryOperation, dyadic, dyadic_images, mixed_network, warm_up
from random_networks import images, random_network

from mmirnet.errors import UnsupportedModelError
from mmirnet.packed import Simulation, pack
from mmirnet.packed.format import check

onnxruntime = pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

from mmirnet.packed.onnx import export, largest_difference, to_onnx  # noqa: E402


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return session.run(None, {'input': x.numpy()})[0]


def test_onnx_gives_the_same_answers(packed_model):
    _, packed, size = packed_model
    packed = dyadic(copy.deepcopy(packed))
    exported = to_onnx(packed)
    simulation = Simulation(packed)
    for batch in (1, 5):
        x = dyadic_images(batch, 3, size, size)
        with torch.no_grad():
            wanted = simulation(x)
        np.testing.assert_allclose(run(exported, x), wanted, atol=1e-4)


def test_zero_counts_as_plus_one():
    model = warm_up(mixed_network(), 3, 9, 9)
    packed = pack(model, (9, 9))
    packed.tensors['1.affine'] = np.zeros((2, 24), np.float32)  # sign(0) everywhere
    packed = check(packed)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        wanted = Simulation(packed)(x)
    np.testing.assert_allclose(run(to_onnx(packed), x), wanted, atol=1e-4)


def test_only_standard_operators():
    exported = to_onnx(pack(warm_up(mixed_network(), 3, 9, 9), (9, 9)))
    assert {node.domain for node in exported.graph.node} == {''}
    onnx.checker.check_model(exported, full_check=True)


def test_the_other_operations(tmp_path):
    packed = pack(warm_up(EveryOperation(), 3, 9, 9), (9, 9))
    export(packed, tmp_path / 'model.onnx')
    x = torch.randn(3, 3, 9, 9).numpy()
    assert largest_difference(packed, tmp_path / 'model.onnx', x) <= 1e-6


def test_random_networks_give_the_same_answers():
    """Maps and features in every order; sums are exact, so that no sign differs."""
    compared = 0
    for seed in range(1000, 1100):
        network, shape = random_network(seed)
        try:
            packed = pack(network, shape[1:])
        except UnsupportedModelError:
            continue
        x = images(seed, 3, (packed.input['channels'], *shape[1:]))
        with torch.no_grad():
            wanted = Simulation(packed)(x).numpy()
        got = run(to_onnx(packed), x)
        assert got.shape == wanted.shape
        scale = abs(wanted).max() + 1e-30
        np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=1e-5)
        compared += 1
    assert compared > 30


def test_a_wrong_layer_is_found(tmp_path):
    packed = pack(warm_up(mixed_network(), 3, 9, 9), (9, 9))
    export(packed, tmp_path / 'model.onnx')
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 9), np.float32)
    assert largest_difference(packed, tmp_path / 'model.onnx', x) <= 1e-6
    packed.tensors['1.affine'] = packed.tensors['1.affine'] * np.float32(1.001)
    assert largest_difference(packed, tmp_path / 'model.onnx', x) > 1e-4
