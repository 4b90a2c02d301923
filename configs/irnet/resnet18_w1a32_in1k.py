_base_ = './resnet18_bireal_in1k.py'

# Binary weights, full-precision activations: normal structure with ReLU.
model = dict(
    backbone=dict(
        structure='normal',
        conv_cfg=dict(type='IRConv2d', binarize_input=False),
        act_cfg=dict(_delete_=True, type='ReLU', inplace=True),
    )
)

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
