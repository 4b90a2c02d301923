_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10_folder_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

# As for the lossless images.
custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
