from ..compat import check_versions

check_versions()

from . import checkpoint
from .amp import Bf16OptimWrapper
from .hooks import (
    BinaryStatsHook,
    ChannelsLastHook,
    CheckHook,
    CompileHook,
    EDEHook,
    FiniteLossHook,
    PackedPreciseBNHook,
    PreemptionHook,
    ResumeHook,
    TF32Hook,
    WholeCheckpointHook,
)
from .loops import ExactEpochLoop, ExactIterLoop
from .weights import FittingPretrainedInit

__all__ = [
    'Bf16OptimWrapper',
    'BinaryStatsHook',
    'ChannelsLastHook',
    'CheckHook',
    'CompileHook',
    'EDEHook',
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteLossHook',
    'FittingPretrainedInit',
    'PackedPreciseBNHook',
    'PreemptionHook',
    'ResumeHook',
    'TF32Hook',
    'WholeCheckpointHook',
    'checkpoint',
]
