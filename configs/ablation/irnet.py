# IR-Net as in the paper; what the other files here change one thing of. A short
# budget that two CPU cores can pay: 10,000 images, 10 epochs.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/fashionmnist_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

train_dataloader = dict(dataset=dict(dataset=dict(indices=10000)))
custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
train_cfg = dict(max_epochs=10)
