# ResNet-20 with Bi-Real structure, W/A bits 1/1.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='IRResNet_CIFAR',
        depth=20,
        structure='bireal',
        conv_cfg=dict(type='IRConv2d'),
        act_cfg=dict(type='Hardtanh', inplace=True),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='BNLinearClsHead',
        num_classes=10,
        in_channels=64,
        # Kaiming normal as in the released code, but with zero bias instead of uniform.
        init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in'),
        loss=dict(type='CrossEntropyLoss'),
    ),
)
