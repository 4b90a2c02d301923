_base_ = './resnet20_bireal_fashionmnist.py'

# Full precision: the network that 1/1 and 1/32 are compared with.
model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(_delete_=True, type='Conv2d'),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
    )
)
custom_hooks = []
