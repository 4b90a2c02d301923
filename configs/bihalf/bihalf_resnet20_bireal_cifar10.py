_base_ = '../irnet/resnet20_bireal_cifar10.py'

model = dict(backbone=dict(conv_cfg=dict(type='BiHalfConv2d')))
custom_hooks = []
