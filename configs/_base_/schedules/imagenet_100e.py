# 32 GPUs x 64 images: warm-up over 2500 iterations, steps at 30, 60 and 90 epochs.
optim_wrapper = dict(
    optimizer=dict(
        type='SGD',
        lr=0.8,
        momentum=0.9,
        weight_decay=1e-4,
        nesterov=True,
        fused=True,
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=2500),
    dict(type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1, by_epoch=True),
]

train_cfg = dict(type='DeterministicEpochLoop', max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10, by_epoch=False, interval=10)]

# --auto-scale-lr scales lr with the number of GPUs and the batch size.
auto_scale_lr = dict(base_batch_size=2048)
