_base_ = './resnet20_bireal_cifar10-jpeg.py'

model = dict(backbone=dict(structure='normal'))
