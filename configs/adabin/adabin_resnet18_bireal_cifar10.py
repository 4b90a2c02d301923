_base_ = '../irnet/resnet18_bireal_cifar10.py'

# As in ResNet-20: an activation after the stem, shortcuts without parameters.
model = dict(
    backbone=dict(
        conv_cfg=dict(type='AdaBinConv2d'),
        act_cfg=dict(_delete_=True, type='Maxout'),
        stem_act=True,
        shortcut='pad',
    )
)
custom_hooks = [dict(type='EDEHook', t_min=1e-3, t_max=10)]
