from ..compat import check_versions

check_versions()

from . import checkpoint
from .amp import Bf16OptimWrapper
from .hooks import (
    BinaryStatsHook,
    CheckHook,
    EDEHook,
    FiniteLossHook,
    PreemptionHook,
    ResumeHook,
    UnfoldBatchNormHook,
    WholeCheckpointHook,
)
from .loops import ExactEpochLoop, ExactIterLoop
from .weights import FittingPretrainedInit

__all__ = [
    'Bf16OptimWrapper',
    'BinaryStatsHook',
    'CheckHook',
    'EDEHook',
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteLossHook',
    'FittingPretrainedInit',
    'PreemptionHook',
    'ResumeHook',
    'UnfoldBatchNormHook',
    'WholeCheckpointHook',
    'checkpoint',
]
