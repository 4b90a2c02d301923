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
    UnfoldBatchNormHook,
    WholeCheckpointHook,
)
from .loops import ExactEpochLoop, ExactIterLoop

__all__ = [
    'Bf16OptimWrapper',
    'BinaryStatsHook',
    'CheckHook',
    'EDEHook',
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteLossHook',
    'PreemptionHook',
    'UnfoldBatchNormHook',
    'WholeCheckpointHook',
    'checkpoint',
]
