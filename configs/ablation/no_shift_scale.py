# Weights of +-1, without Libra-PB's shift scale.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=dict(scale=None)))
