_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

# A short run that learns the whole method in about a minute on two CPU cores.
param_scheduler = dict(T_max=20)
train_cfg = dict(max_epochs=20)

default_hooks = dict(logger=dict(interval=23))  # once an epoch
