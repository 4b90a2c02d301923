"""What is wrong with built objects; each case starts from a run that is right."""

import pytest
from squares import VIEWS, run_config, runner_of, squares

from mmirnet.engine.checks import (
    problems_before_testing,
    problems_before_training,
)

PACKED = [dict(type='PackInputs')]
SWITCH = dict(
    type='SwitchRecipeHook', schedule=[dict(action_epoch=2, train_pipeline=PACKED)]
)


def two_tasks(*labels):
    """A run of two tasks of three and two classes."""
    fields = dict(type='PackMultiTaskInputs', multi_task_fields=['gt_label'])
    tasks = {
        name: dict(type='LinearClsHead', num_classes=n)
        for name, n in (('kind', 3), ('sex', 2))
    }
    head = dict(type='MultiTaskHead', in_channels=64, task_heads=tasks)
    data = squares(labels, pipeline=[fields])
    metrics = {name: [dict(type='Accuracy')] for name in tasks}
    return {
        'model.head': dict(head, _delete_=True),
        'train_dataloader.dataset': dict(data, _delete_=True),
        'val_dataloader.dataset': dict(data, _delete_=True),
        'val_evaluator': dict(
            type='MultiTasksMetric', task_metrics=metrics, _delete_=True
        ),
    }


def found_in(folder, **changes):
    problems = problems_before_training(runner_of(folder, **changes))
    return [(isinstance(p, Warning), str(p)) for p in problems]


def test_what_is_right_passes(tmp_path):
    assert found_in(tmp_path) == []


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'val_dataloader.dataset.names': 'bac'},
            'val_dataloader.dataset has the classes of train_dataloader.dataset in '
            "another order: label 0 is 'b'",
        ),
        (
            {'model.head.num_classes': 2},
            'train_dataloader.dataset has 3 classes, but model.head.num_classes is 2',
        ),
        (
            {'train_dataloader.dataset.labels': [1, 2, 3]},
            'train_dataloader.dataset, sample 2: label 3 is not in 0 to 2; the labels '
            'count from 1, and have to count from 0',
        ),
        (
            {'val_dataloader.dataset.labels': [0, -1, 2]},
            'val_dataloader.dataset, sample 1: label -1 is not in 0 to 2',
        ),
        (
            {'train_dataloader.dataset.labels': [0, 'b', 2]},
            "train_dataloader.dataset, sample 1: the label 'b' is no class number",
        ),
        (
            {'train_dataloader.dataset.labels': [0, [1, 2], 2]},
            'sample 1: the label [1, 2] is not a single number; the head for several',
        ),
        (
            {'train_dataloader.dataset.labels': []},
            'train_dataloader.dataset is empty',
        ),
        (
            {'train_dataloader.batch_size': 9, 'train_dataloader.drop_last': True},
            'train_dataloader gives no batch: 6 images per process are less than '
            'batch_size=9',
        ),
        (
            {'val_evaluator.topk': (0, 1)},
            'val_evaluator: Accuracy takes topk from 1 on, got (0, 1)',
        ),
        (
            {'val_evaluator.topk': (1, 5)},
            'val_evaluator: Accuracy takes topk=(1, 5), but there are 3 classes; set '
            'val_evaluator.topk=(1,)',
        ),
        (
            {'model.head.topk': (1, 5), 'model.head.cal_acc': True},
            'model.head.topk is (1, 5), but there are 3 classes',
        ),
        (
            {
                'val_evaluator': dict(
                    type='ConfusionMatrix', num_classes=4, _delete_=True
                )
            },
            'val_evaluator: ConfusionMatrix has num_classes=4, model.head has 3',
        ),
        (
            {
                'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.2)),
                'data_preprocessor.num_classes': 10,
            },
            'data_preprocessor.num_classes is 10, but model.head.num_classes is 3',
        ),
        (
            {'model.train_cfg': dict(augments=dict(type='CutMix', alpha=0.2))},
            'data_preprocessor.num_classes is None, but model.head.num_classes is 3',
        ),
        (
            {'data_preprocessor.std': [1.0, 0.0, 1.0]},
            'data_preprocessor.std holds 0.0',
        ),
        (
            {'data_preprocessor.mean': [1.0, float('nan'), 1.0]},
            'data_preprocessor.mean holds nan',
        ),
        (
            {'model.head.loss': dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0])},
            'model.head.loss.class_weight has 2 weights for 3 classes',
        ),
        (
            {
                'model.head.loss': dict(
                    type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10
                )
            },
            'model.head.loss.num_classes is 10, model.head.num_classes 3',
        ),
        (
            {'train_dataloader.batch_size': 5, 'model.head.type': 'BNLinearClsHead'},
            'train_dataloader: the last batch of an epoch has one image (6 images per '
            'process, batch_size=5), but model.head.bn normalises over the images',
        ),
        (
            {'train_dataloader.batch_size': 1, 'model.head.type': 'BNLinearClsHead'},
            'train_dataloader.batch_size is 1, but model.head.bn normalises',
        ),
        (  # 4x4 images are one pixel in the last stage
            {
                'train_dataloader.batch_size': 5,
                'train_dataloader.dataset.size': (4, 4),
            },
            'but model.backbone.layer3.0',
        ),
        (
            {'model.head.in_channels': 32},
            'train_dataloader: model.head.fc takes 32 channels, but gets 64 '
            '(model.head.in_channels has to be 64), from images of 3x8x8',
        ),
        (
            {
                'val_dataloader.dataset.channels': 1,
                'data_preprocessor': dict(_delete_=True),
            },
            'val_dataloader: model.backbone.conv1 takes 3 channels, but gets 1, from '
            'images of 1x8x8',
        ),
        (
            {'train_dataloader.dataset.labels': [None] * 6},
            'train_dataloader.dataset has no labels, which LinearClsHead learns from',
        ),
        (
            {'val_dataloader.dataset.labels': [None] * 6},
            'val_dataloader.dataset has no labels, which Accuracy compares with; '
            '--no-validate leaves it out',
        ),
        (
            {
                'val_dataloader.dataset.labels': [None] * 6,
                'val_evaluator': dict(type='AveragePrecision', _delete_=True),
            },
            'val_dataloader.dataset has no labels, which AveragePrecision compares',
        ),
        (
            {'val_dataloader.dataset.pipeline': VIEWS},
            'the pipeline of val_dataloader.dataset gives several views of an image',
        ),
        (
            two_tasks(dict(kind=0, sex=1), dict(kind=2, sex=2)),
            'train_dataloader.dataset, task sex, sample 1: label 2 is not in 0 to 1',
        ),
        (
            two_tasks(dict(kind=0), dict(kind=2)),
            'train_dataloader.dataset, task sex: no sample has a label',
        ),
        (
            {
                'default_hooks.checkpoint': dict(
                    type='CheckpointHook', save_best='accuracy/top9'
                )
            },
            "CheckpointHook.save_best is 'accuracy/top9', but val_evaluator gives "
            "['accuracy/top1']",
        ),
        (
            {'custom_hooks': [dict(type='EarlyStoppingHook', monitor='accuracy')]},
            "EarlyStoppingHook.monitor is 'accuracy', but val_evaluator gives ['accu",
        ),
        (
            {
                'param_scheduler': dict(
                    type='ReduceOnPlateauLR', monitor='loss', _delete_=True
                )
            },
            "ReduceOnPlateauLR.monitor is 'loss', but val_evaluator gives ['accura",
        ),
        (
            {'optim_wrapper.optimizer.type': 'LBFGS'},
            'optim_wrapper.optimizer: LBFGS needs a closure that computes the loss, ',
        ),
        (
            {'custom_hooks': [dict(type='EMAHook', begin_epoch=6)]},
            'EMAHook: begin_epoch=6 is behind the end of the training, which has 5: lo',
        ),
        (
            {'custom_hooks': [dict(type='EMAHook', begin_iter=16)]},
            'EMAHook: begin_iter=16 is behind the end of the training, which has 15: l',
        ),
        (
            {
                'custom_hooks': [dict(type='EMAHook', begin_epoch=2)],
                'train_cfg': dict(by_epoch=False, max_iters=9, _delete_=True),
            },
            'EMAHook: begin_epoch=2 counts epochs, the training loop iterations: set ',
        ),
        (
            {
                'custom_hooks': [SWITCH],
                'train_dataloader.dataset': dict(
                    type='InMemory', dataset=squares(), _delete_=True
                ),
                'train_dataloader.collate_fn': dict(type='as_is'),
            },
            'SwitchRecipeHook: InMemory has no pipeline that could be switched: leave '
            'out train_pipeline, or take another train_dataloader.dataset (leave out -',
        ),
        (
            {
                'custom_hooks': [SWITCH],
                'train_cfg': dict(by_epoch=False, max_iters=9, _delete_=True),
            },
            'SwitchRecipeHook counts epochs, but the training loop counts iterations',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_cannot_work_is_one_line(tmp_path, changes, message):
    errors = [line for warns, line in found_in(tmp_path, **changes) if not warns]
    assert errors
    assert message in errors[0]
    assert '\n' not in errors[0]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'model.head.num_classes': 4},
            'train_dataloader.dataset has 3 classes, but model.head.num_classes is 4',
        ),
        (
            {
                'val_dataloader.dataset.names': 'ab',
                'val_dataloader.dataset.labels': [1],
            },
            "val_dataloader.dataset has no class 'c', which train_dataloader.dataset",
        ),
        (
            {'train_dataloader.sampler.shuffle': False},
            'train_dataloader.sampler.shuffle is False',
        ),
        (
            {'val_dataloader.drop_last': True, 'val_dataloader.batch_size': 4},
            'val_dataloader.drop_last=True leaves 2 images out of the result',
        ),
        (
            {'param_scheduler.T_max': 400},
            'CosineAnnealingLR has T_max=400, but 5 epochs to go; T_max=5',
        ),
        (
            {
                'param_scheduler': dict(
                    type='MultiStepLR', milestones=[3, 7], _delete_=True
                )
            },
            'MultiStepLR has milestones [7], which training of 5 epochs does not reach',
        ),
        (
            {'param_scheduler.begin': 5, 'param_scheduler.end': 9},
            'CosineAnnealingLR begins after 5 of 5 epochs',
        ),
        (
            {
                'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=5),
                'train_dataloader.sampler.type': 'InfiniteSampler',
                'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False),
            },
            'CosineAnnealingLR counts epochs, the training loop iterations',
        ),
        (
            {'custom_hooks': [dict(type='EDEHook'), dict(type='EDEHook')]},
            "EDEHook and EDEHook set the schedule 'ede': the last one counts",
        ),
        (
            {'custom_hooks': [dict(type='EDEHook'), *2 * [dict(type='OvSWHook')]]},
            'OvSWHook is registered 2 times',
        ),
        (
            {
                'custom_hooks': [
                    dict(type='EDEHook'),
                    dict(type='ScheduleHook', schedule='ede', t_max=5),
                ]
            },
            "EDEHook and ScheduleHook set the schedule 'ede': the last one counts",
        ),
        (
            {
                'default_hooks.checkpoint': dict(
                    type='CheckpointHook', interval=9, save_last=False
                )
            },
            'CheckpointHook saves nothing: interval=9',
        ),
        (
            {
                'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=5),
                'train_dataloader.sampler.type': 'InfiniteSampler',
                'param_scheduler.by_epoch': False,
            },
            'CheckpointHook counts epochs, the training loop iterations: nothing is sa',
        ),
        (
            {'model.backbone.act_cfg': dict(type='ReLU')},
            'model.backbone.layer1.0.conv1 and 17 others take the signs of inputs that '
            'all have one sign, as behind a ReLU',
        ),
        (
            {'val_dataloader.dataset.channels': 1},
            'val_dataloader: images of 1 channel become 3, as mean and std of the data '
            'preprocessor have 3 numbers; give them 1',
        ),
        (
            {'optim_wrapper.paramwise_cfg': dict(custom_keys={'layer9': {}, 'bn': {}})},
            "custom_keys: no parameter has 'layer9' in its name",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_looks_wrong_is_warned_of(tmp_path, changes, message):
    found = found_in(tmp_path, **changes)
    ((warns, line),) = found
    assert warns
    assert message in line


@pytest.mark.parametrize(
    'changes',
    [
        {'train_dataloader.batch_size': 5},  # no batch norm sees one value an image
        {'train_dataloader.batch_size': 4, 'model.head.type': 'BNLinearClsHead'},
        {
            'train_dataloader.batch_size': 5,
            'train_dataloader.drop_last': True,
            'model.head.type': 'BNLinearClsHead',
        },
        {'model.head.topk': (1, 5)},  # without cal_acc nobody reads it
        {'data_preprocessor.num_classes': 10},  # nor this without augmentation
        {'model.backbone.norm_eval': True, 'train_dataloader.batch_size': 1},
        {'val_evaluator': dict(type='SingleLabelMetric', num_classes=3, _delete_=True)},
        {
            'model.head': dict(
                type='MultiLabelLinearClsHead', num_classes=3, in_channels=64
            ),
            'val_evaluator': dict(type='MultiLabelMetric', _delete_=True),
            'train_dataloader.dataset.labels': [[0, 1], [2], [0]],
        },
        two_tasks(dict(kind=0), dict(sex=1), dict(kind=2, sex=0)),
        {
            'default_hooks.checkpoint': dict(
                type='CheckpointHook', save_best=['accuracy/top1']
            )
        },
        {
            'model.backbone.act_cfg': dict(type='ReLU'),
            'model.backbone.conv_cfg': dict(type='IRConv2d', binarize_input=False),
        },
        {'val_dataloader.dataset.labels': [None] * 6, 'val_evaluator': []},
        {
            'custom_hooks': [
                dict(type='ScheduleHook', schedule='ede'),
                dict(type='ScheduleHook', schedule='recu'),
            ]
        },
        {'custom_hooks': [SWITCH]},
        {'custom_hooks': [dict(type='EMAHook', begin_epoch=5)]},
    ],
    ids=repr,
)
def test_what_works_is_not_refused(tmp_path, changes):
    assert found_in(tmp_path, **changes) == []


def test_all_is_found_at_once(tmp_path):
    found = found_in(
        tmp_path,
        **{
            'val_evaluator.topk': (1, 5),
            'model.head.in_channels': 32,
            'data_preprocessor.std': [0.0] * 3,
            'val_dataloader.dataset.names': 'bac',
        },
    )
    assert len(found) == 5  # in_channels for training and for validation


def test_nothing_to_train(tmp_path):
    runner = runner_of(tmp_path)
    runner.model.requires_grad_(False)
    (problem,) = problems_before_training(runner)
    assert str(problem) == 'the model has no parameter to train: all are frozen'


class TestCheckpoint:
    """Classes of a checkpoint: a resumed run has them, a fine-tuned one may not."""

    def test_resumed(self, tmp_path):
        runner = runner_of(tmp_path)
        runner._resume = True
        assert list(problems_before_training(runner, ['a', 'b', 'c'])) == []
        problems = problems_before_training(runner, ['a', 'x', 'b', 'c'])
        assert "has no class 'x', which the checkpoint has" in str(next(problems))

    def test_fine_tuned(self, tmp_path):
        runner = runner_of(tmp_path)
        assert list(problems_before_training(runner, ['x', 'y'])) == []
        (problem,) = problems_before_training(runner, ['b', 'a', 'c'])
        assert isinstance(problem, UserWarning)
        assert 'in another order' in str(problem)

    def test_tested(self, tmp_path):
        runner = runner_of(tmp_path)
        assert list(problems_before_testing(runner, 'val', ['a', 'b', 'c'])) == []
        (problem,) = problems_before_testing(runner, 'val', ['c', 'b', 'a'])
        assert 'has the classes of the checkpoint in another order' in str(problem)


@pytest.mark.parametrize('label_weight', [0.0, 0.5])
def test_a_teacher_needs_no_labels(tmp_path, label_weight):
    changes = run_config().model.to_dict() | dict(type='ImageClassifier')
    teacher = dict(type='Teacher', config=changes, checkpoint='teacher.pth')
    found = found_in(
        tmp_path,
        **{
            'train_dataloader.dataset.labels': [None] * 6,
            'model.type': 'BinaryClassifier',
            'model.teacher': teacher,
            'model.label_weight': label_weight,
        },
    )
    wanted = 'train_dataloader.dataset has no labels, which LinearClsHead learns from'
    assert found == [(False, wanted)] * bool(label_weight)


class TestWhatAToolIsTold:
    """Before a test: models that predict nothing, images normalised twice."""

    def test_images_without_labels(self, tmp_path):
        change = {'val_dataloader.dataset.labels': [None] * 6}
        runner = runner_of(tmp_path, **change)
        runner._test_loop = runner.val_loop
        runner.test_loop.evaluator = runner.val_evaluator
        (problem,) = problems_before_testing(runner)
        assert str(problem) == (
            'test_dataloader.dataset has no labels, which Accuracy compares with; for '
            'predictions alone set test_evaluator=[]'
        )

    def test_models_that_predict_nothing(self, tmp_path):
        runner = runner_of(tmp_path)
        runner.model.head = None
        (problem,) = problems_before_testing(runner, 'val')
        assert 'ImageClassifier has no classification head' in str(problem)

    def test_images_that_are_normalised_twice(self, tmp_path):
        step = dict(type='Normalize', mean=[0], std=[1])
        pipeline = [step, dict(type='PackInputs')]
        runner = runner_of(tmp_path, **{'val_dataloader.dataset.pipeline': pipeline})
        (problem,) = problems_before_testing(runner, 'val')
        assert isinstance(problem, UserWarning)
        assert str(problem).startswith(
            'val_dataloader.dataset: images are normalised twice'
        )


@pytest.mark.parametrize(('steps', 'fits'), [(3, False), (5, True)])
def test_a_cycle_that_ends_before_the_training(tmp_path, steps, fits):
    cycle = dict(_delete_=True, type='OneCycleLR', eta_max=0.1, total_steps=steps)
    found = found_in(tmp_path, param_scheduler=cycle)
    assert bool(found) != fits
    if found:
        assert 'OneCycleLR has total_steps=3, fewer than the 5 epochs' in found[0][1]


@pytest.mark.parametrize('update', [False, True])
@pytest.mark.parametrize('processes', [1, 2])
def test_averages_of_statistics_that_processes_do_not_share(
    tmp_path, monkeypatch, update, processes
):
    where = 'mmirnet.engine.checks.hooks.get_world_size'
    monkeypatch.setattr(where, lambda: processes)
    hook = dict(type='EMAHook', update_buffers=update)
    found = found_in(tmp_path, custom_hooks=[dict(type='EDEHook'), hook])
    lines = [line for _, line in found if 'evaluate different networks' in line]
    assert len(lines) == (update and processes == 2)
