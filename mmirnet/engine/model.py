"""What a config says of its model: the network, its images and its classes."""

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import DATASETS, MODELS
from torch import nn

from .run import check_checkpoint


def build_model(cfg: Config, checkpoint: str | None) -> nn.Module:
    """The model of a config with a checkpoint's weights, in evaluation mode.

    Args:
        cfg (Config): The config, as ``load_config`` gives it.
        checkpoint (str | None): File or URL; None for the weights it is built with.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If the checkpoint is damaged or of another architecture.
        FileNotFoundError: If there is no such file.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    spec = cfg.model.copy()
    preprocessor = dict(cfg.get('data_preprocessor', {}))
    spec.setdefault('data_preprocessor', preprocessor)
    model = MODELS.build(spec)
    if checkpoint is not None:
        check_checkpoint(checkpoint, model)
        load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    return model.eval()


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images a config's test pipeline gives.

    32x32, the size of this project's small data sets, where no transform sets it.
    """
    return pipeline_size(cfg) or (32, 32)


def pipeline_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width that the last transform of a test pipeline sets, if any."""
    for transform in reversed(cfg.test_dataloader.dataset.pipeline):
        size = transform.get('crop_size', None)
        if transform.type == 'Resize':
            size = transform.get('scale')
        if size is not None:
            return (size, size) if isinstance(size, int) else tuple(size)
    return None


def class_names(cfg: Config) -> list[str] | None:
    """The names of a config's classes, if its data set knows them."""
    dataset = DATASETS.get(cfg.test_dataloader.dataset.type)
    names = getattr(dataset, 'METAINFO', {}).get('classes')
    return None if names is None else list(names)
