_base_ = [
    '../_base_/models/resnet18_w1a32.py',
    '../_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/default_runtime.py',
]
