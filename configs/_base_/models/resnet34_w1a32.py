# ResNet-34 for ImageNet, W/A bits 1/32: normal structure with ReLU.
_base_ = './resnet18_w1a32.py'

model = dict(backbone=dict(depth=34))
