_base_ = './resnet18_bireal_in1k.py'

model = dict(backbone=dict(structure='normal'))
