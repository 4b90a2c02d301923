"""Access to wrapped models, and to optimizers and schedulers, one or several."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
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


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """Returns the optimizer wrapper of a runner, or several of them.

    Args:
        runner (Runner): The runner, after it has built its optimizers.

    Returns:
        list[OptimWrapper]: One wrapper per optimizer.
    """
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    return list(wrapper.values()) if several else [wrapper]


def param_schedulers(runner: Runner) -> list:
    """Returns the parameter schedulers of a runner, of all its optimizers.

    Args:
        runner (Runner): The runner, after it has built its schedulers.

    Returns:
        list: The schedulers, in the order of the config.
    """
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # for several optimizers
        schedulers = [s for several in schedulers.values() for s in several]
    return schedulers
