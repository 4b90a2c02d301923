# With the shortcuts of ReCU.
_base_ = './fair_recu_cifar10-jpeg.py'

model = dict(backbone=dict(shortcut='avg_pad'))
