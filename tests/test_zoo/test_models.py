from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.apis import ModelHub
from mmpretrain.registry import MODELS
from modelindex.load_model_index import load as load_model_index
from tiny import TinyNet, tiny_runner
from web import NAME, files

import mmirnet
from mmirnet.binary import binary_layers
from mmirnet.engine.weights import check_checkpoint
from mmirnet.packed import pack, unpack, write
from mmirnet.zoo import ZooError, hub, store
from mmirnet.zoo.names import DATASETS


def stems():
    folders = {p.parent for p in (store.names.MIM / 'configs').glob('*/metafile.yml')}
    return {p.stem for folder in folders for p in folder.glob('*.py')}


def test_all_configs_are_listed():
    assert len(stems()) > 20
    assert mmirnet.list_models() == sorted(stems())
    assert mmpretrain.list_models('irnet_') == [f'irnet_{n}' for n in sorted(stems())]


def test_lists_by_pattern_and_data_set():
    names = mmirnet.list_models('vgg')
    assert names and names == mmirnet.list_models('irnet_vgg*')
    assert all(name.startswith('vgg-small') for name in names)
    listed = [mmirnet.list_models(dataset=d) for d in DATASETS.values()]
    assert all(listed) and set().union(*listed) == stems()
    assert mmirnet.list_models('*_in1k') == listed[-1]
    assert mmirnet.list_models('*w1a32', dataset='digits') == ['resnet20_w1a32_digits']
    with pytest.raises(ValueError, match=r"dataset 'mnist' is none of digits, "):
        mmirnet.list_models(dataset='mnist')


def test_pretrained_ones_are_those_of_the_zoo(web):
    web.files.update(files(**{NAME: b'x', 'of_a_later_version': b'y'}))
    assert mmirnet.list_models(pretrained=True) == [NAME]
    assert mmirnet.list_models(dataset='CIFAR-10', pretrained=True) == []


@pytest.mark.parametrize('name', [NAME, f'irnet_{NAME}'])
def test_models_are_built_by_name(name):
    model = mmirnet.get_model(name, head=dict(num_classes=5))
    assert model.head.num_classes == 5 and not model.training
    assert len(list(binary_layers(model))) == 18
    assert mmirnet.get_model(NAME, device='meta').head.fc.weight.is_meta


def test_unknown_models_and_attributes():
    with pytest.raises(ZooError, match=f'did you mean {NAME}'):
        mmirnet.get_model('irnet_resnet20_bireal_digit')
    with pytest.raises(AttributeError, match="no attribute 'get_modle'"):
        _ = mmirnet.get_modle


@pytest.fixture
def state(web, monkeypatch):
    """Weights that every packed file of the zoo is said to hold."""
    state = {}

    def load_packed_checkpoint(path, map_location=None):
        assert path.is_file()
        return dict(state_dict={k: v.to(map_location) for k, v in state.items()})

    monkeypatch.setattr(hub, 'load_packed_checkpoint', load_packed_checkpoint)
    return state


def ones(model):
    return {k: torch.ones_like(v) for k, v in model.state_dict().items()}


def test_pretrained_weights_come_from_the_zoo(state):
    state.update(ones(mmirnet.get_model(NAME)))
    model = mmirnet.get_model(f'irnet_{NAME}', pretrained=True)
    assert all((p == 1).all() for p in model.parameters())
    with pytest.raises(ZooError, match='no weights of resnet20_fp_cifar10; train'):
        mmirnet.get_model('resnet20_fp_cifar10', pretrained=True)


def test_pretrained_in_a_config(state):
    state.update(ones(mmirnet.get_model(NAME)))
    init_default_scope('mmpretrain')
    config = mmirnet.get_model(NAME)._config.model.backbone
    checkpoint = dict(checkpoint=f'irnet://{NAME}', prefix='backbone')
    backbone = MODELS.build(
        dict(config, init_cfg=dict(type='Pretrained', **checkpoint))
    )
    assert not all((p == 1).all() for p in backbone.parameters())
    backbone.init_weights()
    assert all((p == 1).all() for p in backbone.parameters())


def test_load_from_in_a_run(state, tmp_path):
    state.update({k: v + 1 for k, v in TinyNet().state_dict().items()})
    runner = tiny_runner(tmp_path, load_from=f'irnet://{NAME}')
    runner.load_or_resume()
    for name, weight in runner.model.state_dict().items():
        assert torch.equal(weight, state[name])
    loaded = CheckpointLoader.load_checkpoint(f'irnet://{NAME}', 'meta')
    assert all(weight.is_meta for weight in loaded['state_dict'].values())
    check_checkpoint(f'irnet://{NAME}', runner.model)
    del state['net.0.weight']
    with pytest.raises(ValueError, match=f'irnet://{NAME} is of another architecture'):
        check_checkpoint(f'irnet://{NAME}', runner.model)


def test_the_hub_loads_the_weights_of_the_index(state, tmp_path, monkeypatch):
    state.update(ones(mmirnet.get_model(NAME)))
    (tmp_path / 'configs').symlink_to(store.names.MIM / 'configs')
    (tmp_path / 'model-index.yml').write_text(
        f'Models:\n- Name: irnet_{NAME}\n  Config: configs/irnet/{NAME}.py\n'
        f'  Weights: irnet://{NAME}\n'
    )
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    ModelHub.register_model_index(tmp_path / 'model-index.yml', tmp_path)
    inferencer = mmpretrain.ImageClassificationInferencer(f'irnet_{NAME}')
    assert all((p == 1).all() for p in inferencer.model.parameters())
    (result,) = inferencer(np.zeros((8, 8, 3), np.uint8))
    assert result['pred_scores'].shape == (10,)


@pytest.mark.parametrize('kind', ['ImageClassificationInferencer', 'FeatureExtractor'])
def test_inferencers_find_a_pipeline_inside_of_wrappers(kind):
    config = store.names.MIM / 'configs/irnet/resnet20_bireal_cifar10-jpeg.py'
    assert 'pipeline' not in Config.fromfile(config).test_dataloader.dataset
    inferencer = getattr(mmpretrain, kind)(config, pretrained=False)
    images = np.zeros((8, 8, 3), np.uint8)
    assert inferencer.pipeline(dict(img=images))['inputs'].shape == (3, 32, 32)
    assert len(inferencer(images)) == 1


def test_the_layout_that_mim_reads():
    package = Path(mmirnet.__file__).parent
    index = load_model_index(str(Path(package, '.mim', 'model-index.yml')))
    index.build_models_with_collections()
    configs = {Path(package, '.mim', model.config) for model in index.models}
    assert {path.stem for path in configs} == stems()
    assert all(path.is_file() for path in configs)
    assert {m.name for m in index.models} == {f'irnet_{n}' for n in stems()}
    assert all(Path(package, '.mim', m.readme or '.').exists() for m in index.models)


def test_a_packed_file_becomes_a_model(tmp_path, monkeypatch):
    pytest.importorskip('safetensors')
    model = mmirnet.get_model(NAME)
    packed = tmp_path / 'packed'
    write(pack(model, (32, 32)), packed)
    for name, content in files(**{NAME: packed.read_bytes()}).items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv('MMIRNET_ZOO', str(tmp_path))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = mmirnet.get_model(NAME, pretrained=True)(images)
    torch.testing.assert_close(logits, unpack(packed)(images))
    assert not torch.allclose(logits, mmirnet.get_model(NAME)(images))
