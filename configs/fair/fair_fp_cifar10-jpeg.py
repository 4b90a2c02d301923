# The same network in full precision.
_base_ = './fair_irnet_cifar10-jpeg.py'

model = dict(backbone=dict(conv_cfg=None))
custom_hooks = []
