"""Training in two steps: binary inputs with real weights first, then both binary."""

import pytest
import torch
from small_run import small_config

from mmirnet import apis
from mmirnet.binary import binary_layers
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import build_model

pytestmark = pytest.mark.usefixtures('small_resnets')

STEP = """
model = dict(
    type='BinaryClassifier',
    {extra}
    backbone=dict(
        conv_cfg=dict(type='{layer}', binarize_weight={binary}),
    ),
)
custom_hooks = []
train_cfg = dict(max_epochs=1)
"""
#: Layers, and what else the second step needs.
RECIPES = {
    'ReActConv2d': '',
    'BiPerConv2d': "regulariser=dict(type='BiPerRegulariser', loss_weight=1e-4),",
}


@pytest.mark.parametrize('layer', RECIPES)
def test_the_second_step_starts_from_the_weights_of_the_first(tmp_path, layer):
    first = small_config(
        tmp_path / 'first', STEP.format(layer=layer, extra='', binary=False)
    )
    apis.train(str(first), work_dir=str(tmp_path / 'first'))
    checkpoint = str(tmp_path / 'first' / 'epoch_1.pth')
    learned = torch.load(checkpoint, weights_only=False)['state_dict']

    extra = RECIPES[layer]
    second = small_config(
        tmp_path / 'second', STEP.format(layer=layer, extra=extra, binary=True)
    )
    runner = apis.train(
        str(second),
        work_dir=str(tmp_path / 'second'),
        cfg_options={
            'load_from': checkpoint,
            'optim_wrapper.optimizer.lr': 0.0,
            'optim_wrapper.optimizer.weight_decay': 0.0,
        },
    )
    assert runner.epoch == 1
    for name, parameter in runner.model.named_parameters():
        assert torch.equal(parameter, learned[name]), name
    bits = {layer.bits for _, layer in binary_layers(runner.model)}
    assert bits == {'1/1'}
    model = build_model(load_config(str(first), None, 'none'), checkpoint)
    assert {layer.bits for _, layer in binary_layers(model)} == {'32/1'}
    # The steps compute different functions of the same weights.
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model(x), runner.model.eval()(x))


def test_a_first_start_with_resume_loads_the_first_step_too(tmp_path):
    """As a script does that is started again and again until the run is complete."""
    options = {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.max_epochs': 1}
    first = tmp_path / 'first'
    apis.train(str(small_config(first)), work_dir=str(first), cfg_options=options)
    learned = torch.load(first / 'epoch_1.pth', weights_only=False)['state_dict']
    name = 'head.fc.weight'

    folder = tmp_path / 'second'
    config = small_config(folder, f"load_from = '{first / 'epoch_1.pth'}'")
    for epochs in (1, 2):
        options['train_cfg.max_epochs'] = epochs
        options['randomness.seed'] = 1
        runner = apis.train(
            str(config), work_dir=str(folder), resume='auto', cfg_options=options
        )
        assert (runner.epoch, runner._resume) == (epochs, epochs == 2)
        assert torch.equal(runner.model.state_dict()[name], learned[name])
