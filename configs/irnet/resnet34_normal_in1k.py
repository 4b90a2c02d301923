_base_ = './resnet34_bireal_in1k.py'

model = dict(backbone=dict(structure='normal'))
