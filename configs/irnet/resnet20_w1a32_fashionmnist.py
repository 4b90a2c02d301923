_base_ = [
    '../_base_/models/resnet20_w1a32_cifar.py',
    '../_base_/datasets/fashionmnist_bs128.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]
