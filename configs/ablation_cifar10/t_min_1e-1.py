# EDE from t = 0.1.
_base_ = './irnet.py'

custom_hooks = [dict(type='EDEHook', t_min=1e-1, t_max=10)]
