# With activation and shortcuts of ReActNet.
_base_ = './fair_react_cifar10-jpeg.py'

model = dict(
    backbone=dict(
        act_cfg=dict(_delete_=True, type='RPReLU'),
        shortcut='avg_conv',
    )
)
