"""A validation that replays predictions gives what MMEngine's loop gives."""

import pytest
import torch
from captured_runs import PACK, in_memory, metrics_of, validating
from killed_runs import differences, state
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS, METRICS, MODELS
from mmpretrain.models import LinearClsHead
from recorded_graphs import record_graphs

from mmirnet.engine.capture.val_loop import CapturedValLoop
from mmirnet.errors import ConfigError


@pytest.fixture
def recorded(monkeypatch):
    """Captures that record on the CPU, after the first validation."""
    first = CapturedValLoop._runs_uncaptured

    def start_capturing(self):
        reason = first(self)
        self.capture = True
        return reason

    monkeypatch.setattr(CapturedValLoop, '_runs_uncaptured', start_capturing)
    return record_graphs(monkeypatch, lambda: [])


def equal(a, b, number=3):
    assert len(a) == len(b) == number
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name]))


HOOK_LISTS = {
    'no hook': [],
    'EMA': [dict(type='EMAHook', momentum=0.1)],
    'compiled': [dict(type='CompileHook', backend='aot_eager')],
    'hooks of configs': [
        dict(type='CheckHook'),
        dict(type='ResumeHook'),
        dict(type='PackedPreciseBNHook'),
        dict(type='TF32Hook'),
        dict(type='ChannelsLastHook'),
        dict(type='SyncBuffersHook'),
        dict(type='VisualizationHook', enable=False),
        dict(type='BinaryStatsHook', interval=4),
    ],
}


@pytest.mark.parametrize('hooks', HOOK_LISTS.values(), ids=HOOK_LISTS)
def test_validates_as_mmengine(tmp_path, hooks):
    usual = validating(tmp_path / 'usual', 'ValLoop', hooks)
    static = validating(tmp_path / 'static', 'CapturedValLoop', hooks)
    equal(metrics_of(usual), metrics_of(static))
    assert differences(state(tmp_path / 'usual'), state(tmp_path / 'static')) == []


@pytest.mark.parametrize('hooks', HOOK_LISTS.values(), ids=HOOK_LISTS)
def test_replays_validate_as_mmengine(tmp_path, recorded, hooks):
    usual = metrics_of(validating(tmp_path / 'usual', 'ValLoop', hooks))
    replayed = metrics_of(validating(tmp_path / 'replayed', 'CapturedValLoop', hooks))
    equal(usual, replayed)
    assert [graph.replays for graph in recorded] == [4]  # two epochs, two whole batches


# Values of one name replace each other.
SAME_NAMES = {
    'k': dict(type='Accuracy', topk=(1, 1)),
    'threshold': dict(type='Accuracy', thrs=(0.301, 0.302)),
}


@pytest.mark.parametrize('evaluator', SAME_NAMES.values(), ids=SAME_NAMES)
def test_accuracies_of_one_name(tmp_path, evaluator):
    usual = validating(tmp_path / 'usual', 'ValLoop', evaluator=evaluator)
    static = validating(tmp_path / 'static', 'CapturedValLoop', evaluator=evaluator)
    equal(metrics_of(usual), metrics_of(static))


ACCURACIES = {
    'one': dict(type='Accuracy'),
    'thresholds': dict(type='Accuracy', topk=(1, 2), thrs=(0.0, 0.3, None)),
    'two': [dict(type='Accuracy'), dict(type='Accuracy', topk=2, prefix='second')],
}


@pytest.mark.parametrize('evaluator', ACCURACIES.values(), ids=ACCURACIES)
def test_accuracies_of_all_images_at_once(tmp_path, monkeypatch, evaluator):
    usual = metrics_of(validating(tmp_path / 'usual', 'ValLoop', evaluator=evaluator))
    runner = validating(tmp_path / 'once', 'CapturedValLoop', evaluator=evaluator)
    process, taken = runner.val_evaluator.process, []
    monkeypatch.setattr(
        runner.val_evaluator,
        'process',
        lambda **kwargs: taken.append(len(kwargs['data_samples'])) or process(**kwargs),
    )
    equal(usual, metrics_of(runner))
    assert taken == [8, 8, 4, 1, 1]  # the first validation takes batches


def test_metrics_get_the_samples_of_mmengine(tmp_path):
    found = {}
    for kind in ('ValLoop', 'CapturedValLoop'):
        runner = validating(tmp_path / kind, kind)
        runner.train()
        samples = found[kind] = []
        evaluator = runner.val_loop.evaluator
        process = evaluator.process

        def keep(data_samples, data_batch=None, samples=samples, process=process):
            process(data_samples=data_samples, data_batch=data_batch)
            samples.extend(
                s if isinstance(s, dict) else s.to_dict() for s in data_samples
            )

        evaluator.process = keep
        runner.val_loop.run()
    equal(*found.values(), number=20)


@METRICS.register_module()
class OwnMetric(BaseMetric):
    """A metric of the user, who may look at the images."""

    def process(self, data_batch, data_samples):
        self.results += [data_batch['inputs'].shape[-1]] * len(data_samples)

    def compute_metrics(self, results):
        return dict(width=sum(results) / len(results))


@HOOKS.register_module()
class LooksAtBatches(Hook):
    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert len(outputs) == len(data_batch['inputs'])


@HOOKS.register_module()
class LogsBatches(LoggerHook):
    """Looks at batches, too, though LoggerHook does not."""

    after_val_iter = LooksAtBatches.after_val_iter


@MODELS.register_module()
class OwnHead(LinearClsHead):
    def _get_predictions(self, cls_score, data_samples):
        return super()._get_predictions(-cls_score, data_samples)


CROPPED = in_memory(split='test', indices=20)
REASONS = {
    'draws random numbers': dict(
        loader=dict(
            dataset=CROPPED, sampler=dict(type='DeterministicSampler', shuffle=False)
        )
    ),
    'OwnMetric may look at the images': dict(evaluator=dict(type='OwnMetric')),
    'LooksAtBatches looks at each batch': dict(hooks=[dict(type='LooksAtBatches')]),
    'LogsBatches looks at each batch': dict(hooks=[dict(type='LogsBatches')]),
    'Digits, whose images are not in memory': dict(
        loader=dict(
            dataset=in_memory([PACK], 20, 'test')['dataset'],
            collate_fn=dict(type='default_collate'),
        )
    ),
    'does not predict as': dict(head=dict(type='OwnHead')),
}


@pytest.mark.parametrize('reason', REASONS)
def test_validates_plainly_where_nothing_fits(tmp_path, reason):
    options = dict(REASONS[reason], log_level='INFO')
    usual = metrics_of(validating(tmp_path / 'usual', 'ValLoop', **options))
    plain = metrics_of(validating(tmp_path / 'plain', 'CapturedValLoop', **options))
    equal(usual, plain)
    log = next((tmp_path / 'plain').glob('*/*.log')).read_text()
    assert log.count('CapturedValLoop captures nothing: ') == 1
    assert reason in log


def test_refuses_predictions_that_wait_for_the_device(tmp_path, recorded):
    @MODELS.register_module(force=True)
    class WaitingBackbone(MODELS.get('TinyBackbone')):
        def forward(self, x):
            return super().forward(x / x.norm().item())

    backbone = dict(type='WaitingBackbone')
    runner = validating(tmp_path, 'CapturedValLoop', backbone=backbone)
    with pytest.raises(ConfigError, match='of a batch cannot be captured') as error:
        runner.train()
    assert '\n' not in str(error.value)
