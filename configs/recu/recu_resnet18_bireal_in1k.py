_base_ = '../irnet/resnet18_bireal_in1k.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ReCUConv2d'),
        shortcut='avg_pad',
    )
)
custom_hooks = [dict(type='ScheduleHook', schedule='recu')]
