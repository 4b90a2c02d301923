_base_ = './resnet18_normal_cifar10-jpeg.py'

# Full-precision twin of the 1/1 network, with the same recipe.
model = dict(
    backbone=dict(
        conv_cfg=dict(_delete_=True, type='Conv2d'),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
        stem_act=True,
    )
)
custom_hooks = []
