"""Registers the models with MMEngine's checkpoint loader and MMPretrain's hub.

``import mmirnet`` imports this module. Afterwards ``irnet://NAME`` works wherever a
config or function accepts a checkpoint. ``mmpretrain.list_models``,
``mmpretrain.get_model`` and MMPretrain's inferencers have the models as ``irnet_NAME``.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.apis import (
    FeatureExtractor,
    ImageClassificationInferencer,
    ImageRetrievalInferencer,
    ModelHub,
)

from ..datasets.wrapped import leaves
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


def _inside_wrappers(init_pipeline: Callable) -> Callable:
    """Lets an inferencer find the pipeline of a test set inside of wrappers.

    It looks in the outermost data set, where ``InMemory`` and MMEngine's wrappers have
    none.
    """

    @functools.wraps(init_pipeline)
    def found(self: object, cfg: Config) -> Callable:
        cfg = copy.deepcopy(cfg)
        _, cfg.test_dataloader.dataset = next(leaves(cfg.test_dataloader.dataset))
        return init_pipeline(self, cfg)

    return found


for _kind in ImageClassificationInferencer, ImageRetrievalInferencer, FeatureExtractor:
    _kind._init_pipeline = _inside_wrappers(_kind._init_pipeline)
