_base_ = '../irnet/resnet18_normal_in1k.py'

model = dict(backbone=dict(conv_cfg=dict(type='DoReFaConv2d')))
custom_hooks = []
