_base_ = '../irnet/resnet18_normal_cifar10.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ReCUConv2d'),
        shortcut='avg_pad',
    )
)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=5),
]
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=600)
auto_scale_lr = dict(base_batch_size=256)
custom_hooks = [dict(type='ScheduleHook', schedule='recu')]
