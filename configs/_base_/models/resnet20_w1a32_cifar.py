# ResNet-20, W/A bits 1/32: normal structure with ReLU.
_base_ = './resnet20_cifar.py'

model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(type='IRConv2d', binarize_input=False),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
        stem_act=False,
    ),
    head=dict(act_cfg=dict(type='ReLU')),  # between batch norm and classifier
)
