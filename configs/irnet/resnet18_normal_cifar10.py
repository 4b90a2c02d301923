_base_ = [
    '../_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/default_runtime.py',
]

# This run normalises with the mean and std of CIFAR-10.
data_preprocessor = dict(
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
)

# A tenth of ResNet-20's weight decay; 1e-4 does not reach the 91.5 % of the paper.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-5))
