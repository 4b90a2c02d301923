"""What ``torch.compile`` is let loose on."""

from torch import nn


def compile_model(model: nn.Module, **options) -> None:
    model.backbone.compile(fullgraph=True, **options)
