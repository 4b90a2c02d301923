# ResNet-34 for ImageNet with Bi-Real structure, W/A bits 1/1.
_base_ = './resnet18.py'

model = dict(backbone=dict(depth=34))
