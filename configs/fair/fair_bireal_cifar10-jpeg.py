_base_ = './fair_irnet_cifar10-jpeg.py'

model = dict(backbone=dict(conv_cfg=dict(type='BiRealConv2d')))
custom_hooks = []
