_base_ = './fair_irnet_cifar10-jpeg.py'

model = dict(backbone=dict(conv_cfg=dict(type='BNNConv2d')))
custom_hooks = []
