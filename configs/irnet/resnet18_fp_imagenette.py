_base_ = './resnet18_w1a32_imagenette.py'

# Full-precision twin of the 1/32 network, with the same recipe.
model = dict(backbone=dict(conv_cfg=dict(_delete_=True, type='Conv2d')))
custom_hooks = []
