_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/fashionmnist_bs128.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
