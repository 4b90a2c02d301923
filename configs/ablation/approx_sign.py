# Bi-Real Net's approx_sign in place of EDE.
_base_ = './irnet.py'

model = dict(backbone=dict(conv_cfg=dict(estimator='approx_sign')))
