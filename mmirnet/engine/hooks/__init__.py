from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .binary_stats_hook import BinaryStatsHook
from .channels_last_hook import ChannelsLastHook
from .check_hook import CheckHook
from .checkpoint_hook import AtomicCheckpointHook
from .compile_hook import CompileHook
from .ede_hook import EDEHook
from .finite_loss_hook import FiniteLossHook
from .ovsw_hook import OvSWHook
from .precise_bn_hook import PackedPreciseBNHook
from .preemption_hook import PreemptionHook
from .resume_hook import ResumeHook
from .schedule_hook import ScheduleHook
from .tf32_hook import TF32Hook

# Stands for a hook that a config leaves out.
HOOKS.register_module('NoHook', module=Hook)

__all__ = [
    'AtomicCheckpointHook',
    'BinaryStatsHook',
    'ChannelsLastHook',
    'CheckHook',
    'CompileHook',
    'EDEHook',
    'FiniteLossHook',
    'OvSWHook',
    'PackedPreciseBNHook',
    'PreemptionHook',
    'ResumeHook',
    'ScheduleHook',
    'TF32Hook',
]
