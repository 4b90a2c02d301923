# Binary weights, full-precision activations: normal structure with ReLU.
_base_ = './irnet.py'

model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(binarize_input=False),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
        stem_act=False,
    ),
    head=dict(act_cfg=dict(type='ReLU')),  # between batch norm and classifier
)
custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10)]
