# Libra-PB alone: clipped straight-through estimator in place of EDE.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=dict(estimator='ste')))
