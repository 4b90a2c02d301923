_base_ = '../irnet/resnet18_bireal_cifar10.py'

# Binary inputs, real weights.
model = dict(
    type='BinaryClassifier',
    teacher=dict(
        type='Teacher',
        config='irnet_resnet18_fp_cifar10',
        checkpoint='work_dirs/resnet18_fp_cifar10/epoch_400.pth',
    ),
    backbone=dict(
        conv_cfg=dict(type='ReActConv2d', binarize_weight=False),
        act_cfg=dict(_delete_=True, type='RPReLU'),
        shortcut='avg_conv',
        init_cfg=[
            dict(type='Uniform', layer='ReActConv2d', a=0.0, b=1e-3),
        ],
    ),
    head=dict(type='LinearClsHead'),
)
# Adam with 2.5e-3 for 512 images, linearly to zero; two steps of 200 epochs each.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=6.25e-4, weight_decay=1e-5)
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
train_cfg = dict(max_epochs=200)
custom_hooks = []
