custom_imports = dict(imports=['mmirnet'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    check=dict(type='CheckHook'),  # checks data, labels and network before the run
    resume=dict(type='ResumeHook'),  # reports what changed since the checkpoint
    precise_bn=dict(type='PackedPreciseBNHook'),  # for training from a packed file
    tf32=dict(type='TF32Hook', allow=False),  # True is faster on GPUs, less precise
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='AtomicCheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Batch norms work per process; running statistics are averaged after an epoch.
    sync_buffers=dict(type='SyncBuffersHook'),
    finite_loss=dict(type='FiniteLossHook'),
    preemption=dict(type='PreemptionHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    gradient_as_bucket_view=True,
)

# Writes scalars as JSON lines; add dict(type='TensorboardVisBackend') for TensorBoard.
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
