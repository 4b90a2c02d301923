"""Access to wrapped models."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers for DDP and test-time augmentation.

    Args:
        model (nn.Module): The model, wrapped or not.

    Returns:
        nn.Module: The model without wrappers.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
