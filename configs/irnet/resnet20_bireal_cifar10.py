_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

# The released code uses T_min = 1e-3 only for this network, ResNet-20 1/1.
custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
