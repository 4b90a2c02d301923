# Full precision with ReLU: the network of w1a32 with torch's convolutions.
_base_ = './w1a32.py'

model = dict(backbone=dict(conv_cfg=None))
custom_hooks = []
