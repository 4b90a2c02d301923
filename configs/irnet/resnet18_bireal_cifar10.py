_base_ = './resnet18_normal_cifar10.py'

model = dict(backbone=dict(structure='bireal'))
