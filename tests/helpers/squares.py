"""A small run on images of one colour, to be changed by dotted key."""

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS


@DATASETS.register_module()
class Squares(BaseDataset):
    """Images of one colour, in memory."""

    def __init__(self, labels, names='abc', size=(8, 8), channels=3, **kwargs):
        self.given = labels, size, channels
        super().__init__('', metainfo=dict(classes=tuple(names)), **kwargs)

    def load_data_list(self):
        labels, (height, width), channels = self.given
        image = np.zeros((height, width, channels), np.uint8)
        return [
            dict(img=image) if label is None else dict(img=image, gt_label=label)
            for label in labels
        ]


def squares(labels=(0, 1, 2, 0, 1, 2), **kwargs):
    kwargs.setdefault('serialize_data', False)  # which collects garbage, for a second
    kwargs.setdefault('pipeline', [dict(type='PackInputs')])
    return dict(type='Squares', labels=list(labels), **kwargs)


def run_config(**changes):
    """A run that is right, with changes by dotted key."""
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=squares(),
        collate_fn=dict(type='default_collate'),
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='IRResNet_CIFAR', depth=20),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
            ),
            data_preprocessor=dict(mean=[1.0] * 3, std=[1.0] * 3),
            train_dataloader=dict(
                loader, sampler=dict(type='DefaultSampler', shuffle=True)
            ),
            val_dataloader=dict(
                loader, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=5),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=5),
            log_level='ERROR',
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


#: Two views of each image, as test-time augmentation takes them.
VIEWS = [
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
            [dict(type='PackInputs')],
        ],
    )
]


def runner_of(folder, **changes):
    """The runner as it is when training starts."""
    runner = Runner.from_cfg(Config(dict(run_config(**changes), work_dir=str(folder))))
    assert runner.train_loop and runner.val_loop  # they are built when asked for
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner
