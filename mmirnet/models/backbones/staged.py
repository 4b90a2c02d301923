"""Base class of the backbones: a stem, stages and their features."""

from collections.abc import Sequence

from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from ...errors import ConfigError


class StagedBackbone(BaseBackbone):
    """A stem and stages ``layer1``, ``layer2``, ... that each halve the resolution.

    Args:
        out_indices (Sequence[int]): Stages whose feature maps are returned. -1 is the
            last.
        frozen_stages (int): Stem and stages up to this one have fixed weights and
            statistics: 0 means the stem, 1 also ``layer1``, and -1 none.
        norm_eval (bool): Whether batch norms use their running statistics in training,
            without updating them.
        init_cfg (dict | list[dict] | None): Initialisation.
    """

    def __init__(
        self,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def add_stages(self, stages: Sequence[nn.Module]) -> None:
        """Registers the stages and checks the arguments that refer to them."""
        n = len(stages)
        if not isinstance(self.out_indices, Sequence):
            raise ConfigError(
                f'out_indices must be a sequence of stages, got {self.out_indices!r}'
            )
        if not all(-n <= i < n for i in self.out_indices):
            raise ConfigError(
                f'out_indices must lie in {-n}..{n - 1} for {n} stages, '
                f'got {tuple(self.out_indices)}'
            )
        if len({i % n for i in self.out_indices}) < len(self.out_indices):
            raise ConfigError(
                f'out_indices names a stage twice: {tuple(self.out_indices)}'
            )
        if not self.out_indices:
            raise ConfigError('out_indices must name one stage at least')
        if not -1 <= self.frozen_stages <= n:
            raise ConfigError(
                f'frozen_stages must lie in -1..{n}, got {self.frozen_stages}'
            )
        self.out_indices = tuple(i % n for i in self.out_indices)
        for i, stage in enumerate(stages, 1):
            self.add_module(f'layer{i}', stage)
        self.num_stages = n
        self._freeze()

    def stem_modules(self) -> list[nn.Module]:
        """Returns the modules before the first stage."""
        raise NotImplementedError

    def stem(self, x: Tensor) -> Tensor:
        """Computes the input of the first stage."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (N, 3, H, W) to the feature maps of ``out_indices``."""
        x = self.stem(x)
        outs = []
        for i in range(self.num_stages):
            x = getattr(self, f'layer{i + 1}')(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stages = [getattr(self, f'layer{i + 1}') for i in range(self.frozen_stages)]
        for module in [*self.stem_modules(), *stages]:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        """Sets training or evaluation mode, except for frozen modules."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
