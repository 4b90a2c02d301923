from . import checkpoint
from .amp import Bf16OptimWrapper
from .hooks import (
    EDEHook,
    FiniteLossHook,
    PreemptionHook,
    UnfoldBatchNormHook,
    WholeCheckpointHook,
)
from .loops import ExactEpochLoop, ExactIterLoop

__all__ = [
    'Bf16OptimWrapper',
    'EDEHook',
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteLossHook',
    'PreemptionHook',
    'UnfoldBatchNormHook',
    'WholeCheckpointHook',
    'checkpoint',
]
