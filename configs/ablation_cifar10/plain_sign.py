# Plain sign of weights and activations, clipped straight-through estimator.
_base_ = './irnet.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(balance=False, standardize=False, scale=None, estimator='ste')
    )
)
