_base_ = [
    '../_base_/models/vgg-small_cifar.py',
    '../_base_/datasets/cifar10_folder_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

# As for the lossless images.
optim_wrapper = dict(optimizer=dict(lr=0.007))
train_cfg = dict(max_epochs=300)
