_base_ = '../irnet/resnet20_bireal_cifar10.py'

# Real weights sin(omega w).
model = dict(backbone=dict(conv_cfg=dict(type='BiPerConv2d', binarize_weight=False)))
train_cfg = dict(max_epochs=600)
custom_hooks = []
