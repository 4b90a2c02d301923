_base_ = './fair_irnet_cifar10-jpeg.py'

model = dict(backbone=dict(conv_cfg=dict(type='OvSWConv2d')))
custom_hooks = [dict(type='OvSWHook', min_ratio=0.04, silent_decay=9e-4)]
