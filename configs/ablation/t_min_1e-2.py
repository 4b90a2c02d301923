# EDE from t = 0.01.
_base_ = './irnet.py'

custom_hooks = [dict(type='EDEHook', t_min=1e-2, t_max=10)]
