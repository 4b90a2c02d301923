_base_ = '../irnet/vgg-small_cifar10.py'

model = dict(backbone=dict(conv_cfg=dict(type='BiRealConv2d')))
custom_hooks = []
