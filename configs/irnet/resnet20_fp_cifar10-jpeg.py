_base_ = [
    '../_base_/models/resnet20_fp_cifar.py',
    '../_base_/datasets/cifar10_folder_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

custom_hooks = []
