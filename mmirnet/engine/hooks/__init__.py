from .binary_stats_hook import BinaryStatsHook
from .check_hook import CheckHook
from .checkpoint_hook import WholeCheckpointHook
from .ede_hook import EDEHook
from .finite_loss_hook import FiniteLossHook
from .preemption_hook import PreemptionHook
from .resume_hook import ResumeHook
from .unfold_hook import UnfoldBatchNormHook

__all__ = [
    'BinaryStatsHook',
    'CheckHook',
    'EDEHook',
    'FiniteLossHook',
    'PreemptionHook',
    'ResumeHook',
    'UnfoldBatchNormHook',
    'WholeCheckpointHook',
]
