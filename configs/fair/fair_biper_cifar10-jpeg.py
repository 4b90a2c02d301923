_base_ = './fair_irnet_cifar10-jpeg.py'

model = dict(
    type='BinaryClassifier',
    regulariser=dict(type='BiPerRegulariser', loss_weight=1e-4),
    backbone=dict(conv_cfg=dict(type='BiPerConv2d')),
)
custom_hooks = []
