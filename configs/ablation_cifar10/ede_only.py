# EDE alone: plain sign of weights in place of Libra-PB.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=dict(balance=False, standardize=False, scale=None)))
