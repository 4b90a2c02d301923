_base_ = [
    '../_base_/models/vgg-small_cifar.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=0.007))
train_cfg = dict(max_epochs=30)

auto_scale_lr = dict(base_batch_size=64)

default_hooks = dict(logger=dict(interval=23))  # once per epoch

randomness = dict(seed=0)
