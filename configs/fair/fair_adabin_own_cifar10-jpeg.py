# With the activation of AdaBin.
_base_ = './fair_adabin_cifar10-jpeg.py'

model = dict(backbone=dict(act_cfg=dict(_delete_=True, type='Maxout')))
