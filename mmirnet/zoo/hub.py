"""The models among MMEngine's checkpoints and in MMPretrain's hub.

Imported by ``import mmirnet``: ``irnet://NAME`` then stands for the weights of a
model wherever a config or a function takes a checkpoint, and
``mmpretrain.list_models``, ``mmpretrain.get_model`` and MMPretrain's inferencers
know the models as ``irnet_NAME``.
"""

from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.apis import ModelHub

from ..packed.latent import load_packed_checkpoint
from .names import MIM, SCHEME
from .store import fetch


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_zoo(filename: str, map_location: Any = None) -> dict:
    """Loads the weights of a model of the zoo, for training and evaluation.

    Every rank may call this; those of one machine download once.

    Args:
        filename: ``irnet://NAME``.
        map_location: As for torch.load.

    Returns:
        ``state_dict``, with latent weights for the binary layers, and ``meta``.

    Raises:
        ZooError: As :func:`~mmirnet.zoo.fetch`.
    """
    return load_packed_checkpoint(fetch(filename.removeprefix(SCHEME)), map_location)


ModelHub.register_model_index(MIM / 'model-index.yml', config_prefix=MIM)
