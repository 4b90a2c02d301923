# ResNet-18 for ImageNet with Bi-Real structure, W/A bits 1/1.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='IRResNet',
        depth=18,
        structure='bireal',
        conv_cfg=dict(type='IRConv2d'),
        act_cfg=dict(type='Hardtanh', inplace=True),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='BNLinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
        topk=(1, 5),
    ),
)
