_base_ = [
    '../_base_/models/resnet18.py',
    '../_base_/datasets/imagenette_in_memory.py',
    '../_base_/schedules/imagenette_200e.py',
    '../_base_/fast_runtime.py',
]

model = dict(head=dict(num_classes=10, topk=(1,)))
# As for ImageNet.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-5))
