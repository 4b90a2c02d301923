# ResNet-20 and ResNet-18: SGD, cosine to zero at the last epoch, EDE by epoch.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
)
param_scheduler = dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)

train_cfg = dict(type='DeterministicEpochLoop', max_epochs=400, val_interval=1)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10)]

auto_scale_lr = dict(base_batch_size=128)
