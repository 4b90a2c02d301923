import pytest
from mmengine.config import Config
from small_run import ROOT

from mmirnet.engine import changes
from mmirnet.engine.changes import warn_of_changes
from mmirnet.models import IRResNet_CIFAR


class TestWarnOfChanges:
    """The same weights compute something else in another network."""

    CONFIG = ROOT / 'configs/irnet/resnet20_bireal_digits.py'

    @pytest.fixture
    def told(self, monkeypatch):
        lines = []
        monkeypatch.setattr(changes, 'print_log', lambda line, *_: lines.append(line))
        return lines

    def tell(self, **options):
        cfg = Config.fromfile(self.CONFIG)
        checkpoint = dict(meta=dict(cfg=cfg.pretty_text))
        cfg.merge_from_dict(options)
        warn_of_changes(checkpoint, cfg, 'epoch_9.pth')

    @pytest.mark.parametrize(
        ('options', 'line'),
        [
            (
                {'model.backbone.conv_cfg.binarize_input': False},
                'without backbone.conv_cfg.binarize_input, and the config has False',
            ),
            (
                {'model.backbone.conv_cfg.type': 'ReCUConv2d'},
                "conv_cfg.type='IRConv2d', and the config has 'ReCUConv2d'",
            ),
            (
                {'model.backbone.act_cfg': dict(type='Hardtanh', _delete_=True)},
                'with backbone.act_cfg.inplace=True, and the config is without',
            ),
            (
                {'data_preprocessor.mean': [1.0, 2.0, 3.0]},
                'and the config has [1.0, 2.0, 3.0]',
            ),
        ],
    )
    def test_another_network(self, told, options, line):
        self.tell(**options)
        assert told[0].startswith('epoch_9.pth was trained with') and line in told[0]

    @pytest.mark.parametrize(
        'options',
        [
            {},
            {'model.backbone.norm_eval': True},
            {'train_cfg.max_epochs': 9},
            {'model.backbone.type': IRResNet_CIFAR},
            {'model.backbone.conv_cfg.type': 'mmirnet.IRConv2d'},
        ],
    )
    def test_the_same_network(self, told, options):
        self.tell(**options)
        assert not told

    def test_a_pair_is_the_same_as_a_list(self, told):
        cfg = Config(dict(model=dict(backbone=dict(out_indices=(3,)))))
        checkpoint = dict(meta=dict(cfg=cfg.pretty_text))
        warn_of_changes(checkpoint, cfg, 'x.pth')
        assert not told

    @pytest.mark.parametrize('checkpoint', [{}, dict(meta=None), dict(meta={'cfg': 1})])
    def test_checkpoints_of_others(self, told, checkpoint):
        warn_of_changes(checkpoint, Config.fromfile(self.CONFIG), 'x.pth')
        assert not told
