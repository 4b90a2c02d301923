_base_ = './resnet20_bireal_cifar10-jpeg.py'

# Full-precision twin of the 1/1 network: Bi-Real structure and Hardtanh.
model = dict(backbone=dict(conv_cfg=None))
custom_hooks = []
