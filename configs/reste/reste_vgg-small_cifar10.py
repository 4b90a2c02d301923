_base_ = '../irnet/vgg-small_cifar10.py'

model = dict(backbone=dict(conv_cfg=dict(type='ReSTEConv2d')))
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=1000)
auto_scale_lr = dict(base_batch_size=256)
custom_hooks = [dict(type='ScheduleHook', schedule='reste')]
