"""Registers the models with MMEngine's checkpoint loader and MMPretrain's hub.

``import mmirnet`` imports this module. Afterwards ``irnet://NAME`` works wherever a
config or function accepts a checkpoint. ``mmpretrain.list_models``,
``mmpretrain.get_model`` and MMPretrain's inferencers have the models as ``irnet_NAME``.
"""

from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.apis import ModelHub

from ..packed.latent import load_packed_checkpoint
from .names import MIM, SCHEME
from .store import fetch


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_zoo(filename: str, map_location: Any = None) -> dict:
    """Loads the weights of a model in the zoo, for training and evaluation.

    All ranks may call this function. Those of one machine download the file once.

    Args:
        filename (str): ``irnet://NAME``.
        map_location: Argument of ``torch.load``.

    Returns:
        dict: ``state_dict``, with latent weights for the binary layers, and ``meta``.

    Raises:
        ZooError: As for :func:`~mmirnet.zoo.fetch`.
    """
    return load_packed_checkpoint(fetch(filename.removeprefix(SCHEME)), map_location)


ModelHub.register_model_index(MIM / 'model-index.yml', config_prefix=MIM)
