_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

# A short run, which takes one or two minutes on two CPU cores.
train_cfg = dict(max_epochs=30)

auto_scale_lr = dict(base_batch_size=64)

default_hooks = dict(logger=dict(interval=23))  # once per epoch

randomness = dict(seed=0)
