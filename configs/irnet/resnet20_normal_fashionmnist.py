_base_ = './resnet20_bireal_fashionmnist.py'

model = dict(backbone=dict(structure='normal'))
