# Full precision: the same network with torch's convolutions.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=None))
custom_hooks = []
