_base_ = '../irnet/resnet18_bireal_in1k.py'

model = dict(backbone=dict(conv_cfg=dict(type='BiRealConv2d')))
custom_hooks = []
