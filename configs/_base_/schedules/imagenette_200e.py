# ImageNet's recipe for 9,469 images on one GPU. lr is scaled with the batch size, 0.8 *
# 128 / 2048. There are twice the epochs, because an epoch has 74 iterations, not 625.
# Warm-up (4 % of the run) and steps (at 30, 60 and 90 %) keep their share of the run.
optim_wrapper = dict(
    optimizer=dict(
        type='SGD',
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        nesterov=True,
        fused=True,
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=592),
    dict(type='MultiStepLR', milestones=[60, 120, 180], gamma=0.1, by_epoch=True),
]

train_cfg = dict(type='DeterministicEpochLoop', max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10, by_epoch=False, interval=10)]

auto_scale_lr = dict(base_batch_size=128)
