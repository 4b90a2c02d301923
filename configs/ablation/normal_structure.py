# One shortcut around two convolutions in place of Bi-Real's.
_base_ = './irnet.py'

model = dict(backbone=dict(structure='normal'))
