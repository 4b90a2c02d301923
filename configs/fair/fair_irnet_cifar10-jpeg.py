# ResNet-20 with Bi-Real structure, Hardtanh and shortcuts without parameters; 400
# epochs of SGD. The other files here change the recipe and nothing else.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10_folder_in_memory.py',
    '../_base_/schedules/cifar10_400e.py',
    '../_base_/fast_runtime.py',
]

custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
