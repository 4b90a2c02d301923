"""Former names of registered classes, which still work and warn."""

import warnings

from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, Registry

from ..datasets.seeding import DeterministicSampler
from .hooks import AtomicCheckpointHook, PackedPreciseBNHook
from .loops import DeterministicEpochLoop, DeterministicIterLoop


def _register_former(registry: Registry, name: str, part: type) -> None:
    """Registers a subclass under the former name that warns of the new name."""

    def __init__(self, *args, **kwargs) -> None:
        message = f'{name} is now {part.__name__}: change the config'
        warnings.warn(message, FutureWarning, stacklevel=2)
        part.__init__(self, *args, **kwargs)

    former = type(name, (part,), dict(__init__=__init__, __doc__=part.__doc__))
    registry.register_module(name=name, module=former)


_register_former(DATA_SAMPLERS, 'ExactSampler', DeterministicSampler)
_register_former(HOOKS, 'UnfoldBatchNormHook', PackedPreciseBNHook)
_register_former(HOOKS, 'WholeCheckpointHook', AtomicCheckpointHook)
_register_former(LOOPS, 'ExactEpochLoop', DeterministicEpochLoop)
_register_former(LOOPS, 'ExactIterLoop', DeterministicIterLoop)
