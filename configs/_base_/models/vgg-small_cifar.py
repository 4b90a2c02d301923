# VGG-Small, W/A bits 1/1.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='IRVGGSmall',
        conv_cfg=dict(type='IRConv2d'),
        act_cfg=dict(type='Hardtanh', inplace=True),
    ),
    neck=dict(type='FlattenNeck'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512 * 4 * 4,
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
        loss=dict(type='CrossEntropyLoss'),
    ),
)
