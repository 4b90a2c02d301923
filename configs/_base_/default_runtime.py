custom_imports = dict(imports=['mmirnet'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    check=dict(type='CheckHook'),  # data, labels, classes and network, before the start
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='WholeCheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Batch norms count per process; their running statistics meet at epoch ends.
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
# float32 keeps its 24 bits on GPUs; True is faster there, with 11.
tf32 = False
# Channels beside each other in memory, which most convolutions prefer.
channels_last = False
# compile = True, or torch.compile's arguments in a dict, compiles the backbone.
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    gradient_as_bucket_view=True,
)

# Scalars as JSON lines; add dict(type='TensorboardVisBackend') for TensorBoard.
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
