# ResNet-18 for ImageNet, W/A bits 1/32: normal structure with ReLU.
_base_ = './resnet18.py'

model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(type='IRConv2d', binarize_input=False),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
    )
)
