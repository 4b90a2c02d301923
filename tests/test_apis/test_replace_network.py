import numpy as np
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from networks import warm_up
from packed_models import ARCHITECTURES, classifier

from mmirnet.apis import packing
from mmirnet.apis.packing import replace_network, warn_of_other_images
from mmirnet.datasets import Digits
from mmirnet.packed import pack, write


@pytest.fixture(scope='module')
def model_and_file(tmp_path_factory):
    backbone, width, size = ARCHITECTURES['resnet20-bireal']
    model = classifier(backbone, width)
    model.forward_logits = lambda x: model.head(model.neck(model.backbone(x)))
    model.forward, forward = model.forward_logits, model.forward
    warm_up(model, 3, size, size)
    model.forward = forward
    path = tmp_path_factory.mktemp('packed') / 'model.safetensors'
    write(pack(model, (size, size)), path)
    return model, path


@pytest.mark.parametrize('engine', [False, True])
def test_a_packed_file_predicts_in_a_classifier(model_and_file, engine):
    model, path = model_and_file
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    data = dict(inputs=list(torch.from_numpy(images)))
    with torch.no_grad():
        wanted = [s.pred_score for s in model.test_step(data)]
        other = classifier(ARCHITECTURES['resnet20-bireal'][0], 64).eval()
        replace_network(other, path, engine)
        got = [s.pred_score for s in other.test_step(data)]
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted))


def test_another_number_of_classes_is_refused(model_and_file):
    other = classifier(ARCHITECTURES['resnet20-bireal'][0], 64)
    other.head.num_classes = 7
    with pytest.raises(ValueError, match='has 10 classes, the config 7'):
        replace_network(other, model_and_file[1])


@pytest.mark.parametrize(
    ('setting', 'line'),
    [
        (dict(), None),
        (dict(mean=[0.0] * 3), 'mean=[120.0, 110.0, 100.0], and the config [0.0,'),
        (dict(std=[1.0] * 3), 'std=[60.0, 50.0, 40.0], and the config [1.0, 1.0, 1.0]'),
        (dict(to_rgb=True), 'order=rgb, and the config bgr'),
    ],
)
@pytest.mark.parametrize('engine', [False, True])
def test_other_images_are_told(model_and_file, engine, setting, line, monkeypatch):
    lines = []
    monkeypatch.setattr(packing, 'print_log', lambda line, *_: lines.append(line))
    other = classifier(ARCHITECTURES['resnet20-bireal'][0], 64)
    given = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0]) | setting
    other.data_preprocessor = ClsDataPreprocessor(**given)
    replace_network(other, model_and_file[1], engine)
    dataset = Digits(split='test', pipeline=[dict(type='PackInputs')])
    warn_of_other_images(other, dataset, 'x.safetensors')
    assert bool(lines) == bool(line)
    assert all(f'x.safetensors was packed for images of {line}' in x for x in lines)
