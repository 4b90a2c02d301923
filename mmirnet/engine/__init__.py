from ..compat import check_versions

check_versions()

from . import checkpoint, renamed
from .amp import Bf16OptimWrapper
from .capture import CapturedEpochLoop, CapturedValLoop
from .hooks import (
    AtomicCheckpointHook,
    BinaryStatsHook,
    ChannelsLastHook,
    CheckHook,
    CompileHook,
    EDEHook,
    FiniteLossHook,
    OvSWHook,
    PackedPreciseBNHook,
    PreemptionHook,
    ResumeHook,
    ScheduleHook,
    TF32Hook,
)
from .loops import DeterministicEpochLoop, DeterministicIterLoop
from .teacher import Teacher
from .weights import FittingPretrainedInit

__all__ = [
    'AtomicCheckpointHook',
    'Bf16OptimWrapper',
    'BinaryStatsHook',
    'CapturedEpochLoop',
    'CapturedValLoop',
    'ChannelsLastHook',
    'CheckHook',
    'CompileHook',
    'DeterministicEpochLoop',
    'DeterministicIterLoop',
    'EDEHook',
    'FiniteLossHook',
    'FittingPretrainedInit',
    'OvSWHook',
    'PackedPreciseBNHook',
    'PreemptionHook',
    'ResumeHook',
    'ScheduleHook',
    'TF32Hook',
    'Teacher',
    'checkpoint',
    'renamed',
]
