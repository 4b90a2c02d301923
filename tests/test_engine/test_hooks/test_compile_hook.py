"""The log says when something is compiled."""

from tiny import TinyNet, tiny_runner
from torch import nn


class WithBackbone(TinyNet):
    """The tiny network with a backbone to compile."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Identity()


def test_says_when_and_how_long(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', '/kept')
    hook = dict(type='CompileHook', backend='eager')
    tiny_runner(tmp_path, [hook], model=WithBackbone(), log_level='INFO').train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert text.count('in the first train iteration; /kept keeps the code') == 1
    assert text.count('The first train iteration, with compilation, took ') == 1
