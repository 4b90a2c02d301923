# Balanced weights, not standardised.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=dict(standardize=False)))
