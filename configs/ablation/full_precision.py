# Full precision with Hardtanh, as 1/1 networks have it: torch's convolutions.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=None))
custom_hooks = []
