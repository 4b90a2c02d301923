# ResNet-18 for 32x32 images with normal structure, W/A bits 1/1.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='IRResNet_CIFAR',
        depth=18,
        structure='normal',
        conv_cfg=dict(type='IRConv2d'),
        act_cfg=dict(type='Hardtanh', inplace=True),
        stem_act=False,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='BNLinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
