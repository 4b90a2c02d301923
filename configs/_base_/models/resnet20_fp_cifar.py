# ResNet-20 in full precision, with normal structure and ReLU.
_base_ = './resnet20_cifar.py'

model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(_delete_=True, type='Conv2d'),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
    )
)
