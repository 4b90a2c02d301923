_base_ = '../irnet/resnet20_normal_cifar10.py'

model = dict(backbone=dict(conv_cfg=dict(type='BNNConv2d')))
custom_hooks = []
