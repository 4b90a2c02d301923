_base_ = '../irnet/resnet18_bireal_in1k.py'

# Binary inputs, real weights.
model = dict(
    type='BinaryClassifier',
    # The published weights of MMPretrain.
    teacher=dict(type='Teacher', config='resnet34_8xb32_in1k'),
    backbone=dict(
        conv_cfg=dict(type='ReActConv2d', binarize_weight=False),
        act_cfg=dict(_delete_=True, type='RPReLU'),
        shortcut='avg_conv',
        stem_act=False,
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Uniform', layer='ReActConv2d', a=0.0, b=1e-3),
        ],
    ),
    head=dict(type='LinearClsHead'),
)
# 8 GPUs x 64 images.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=2.5e-3, weight_decay=1e-5)
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.0,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=128)
auto_scale_lr = dict(base_batch_size=512)
custom_hooks = []
