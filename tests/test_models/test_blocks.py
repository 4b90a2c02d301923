import pytest
import torch

from mmirnet.models.blocks import PadShortcut


@pytest.mark.parametrize('channels', [(16, 32), (3, 8), (4, 4)])
def test_pad_shortcut_takes_pixels_and_pads_both_sides(channels):
    c_in, c_out = channels
    x = torch.randn(2, c_in, 6, 5)
    y = PadShortcut(c_in, c_out, 2)(x)
    assert y.shape == (2, c_out, 3, 3)
    front = (c_out - c_in) // 2
    assert torch.equal(y[:, front : front + c_in], x[..., ::2, ::2])
    assert y.count_nonzero() == x[..., ::2, ::2].count_nonzero()


def test_pad_shortcut_takes_no_channels_away():
    with pytest.raises(ValueError, match='8 cannot become 4'):
        PadShortcut(8, 4, 2)
