_base_ = './vgg-small_cifar10-jpeg.py'

# Full-precision twin of the 1/1 network.
model = dict(
    backbone=dict(
        conv_cfg=dict(_delete_=True, type='Conv2d'),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
    )
)
custom_hooks = []
