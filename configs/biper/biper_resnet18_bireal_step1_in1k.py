_base_ = '../irnet/resnet18_bireal_in1k.py'

# Real weights sin(omega w).
model = dict(backbone=dict(conv_cfg=dict(type='BiPerConv2d', binarize_weight=False)))
custom_hooks = []
