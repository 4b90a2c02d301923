"""Checks of a config before anything is built from it.

:func:`check_config` lists all problems at once. :mod:`mmirnet.engine.checks` has the
checks that need built objects.
"""

from collections.abc import Iterator

from mmengine.config import Config

from ...errors import ConfigError
from ..problems import report
from .folders import data_problems
from .keywords import dataset_problems, keyword_problems
from .settings import model_problems, setting_problems

__all__ = ['check_config', 'config_problems', 'dataset_problems', 'keyword_problems']


def check_config(cfg: Config, loaders: tuple[str, ...] = ()) -> None:
    """Refuses a config that cannot be built or that does not match the data.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built, empty to
            build only the model.

    Raises:
        ValueError: If there are problems; one line per problem.
        FileNotFoundError: If the only problem is missing data.
    """
    if not loaders:
        parts = ('model', 'data_preprocessor', 'default_scope')
        model = {key: cfg[key] for key in parts if key in cfg}
        cfg = Config(dict(default_scope='mmpretrain') | model)
    report(config_problems(cfg, loaders))


def config_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    """Finds all problems of a config.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.

    Yields:
        Exception: One per problem. Suspicious settings are warnings.
    """
    wrong_names = list(keyword_problems(cfg, loaders))
    yield from wrong_names
    yield from model_problems(cfg)
    if loaders:
        yield from setting_problems(cfg, loaders)
    # Data sets are built to check their files. Skip those that lack arguments.
    if not any(isinstance(p, ConfigError) for p in wrong_names):
        yield from data_problems(cfg, loaders)
