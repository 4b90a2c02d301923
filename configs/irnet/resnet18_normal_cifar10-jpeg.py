_base_ = [
    '../_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10_folder_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

# As for the lossless images.
data_preprocessor = dict(
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-5))
