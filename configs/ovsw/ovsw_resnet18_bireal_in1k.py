_base_ = '../irnet/resnet18_bireal_in1k.py'

model = dict(backbone=dict(conv_cfg=dict(type='OvSWConv2d')))
custom_hooks = [dict(type='OvSWHook', min_ratio=0.01, silent_decay=2e-5)]
