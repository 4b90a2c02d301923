import math

import pytest
import torch

from mmirnet.binary import hardtanh


class TestHardtanh:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('compiled', [False, True])
    def test_equals_torchs(self, dtype, compiled):
        torch.manual_seed(0)
        edges = torch.tensor([-math.inf, -2, -1, -0.0, 0, 0.999, 1, 1.001, math.inf])
        x = torch.cat([torch.randn(500), edges]).to(dtype)
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        grad = torch.randn(len(x)).to(dtype)
        function = torch.compile(hardtanh) if compiled else hardtanh
        y = function(ours)
        y.backward(grad)
        expected = torch.nn.functional.hardtanh(theirs)
        expected.backward(grad)
        assert torch.equal(y, expected)
        assert torch.equal(ours.grad, theirs.grad)

    def test_gradients_keep_the_layout_of_x(self):
        x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
        x.requires_grad_()
        hardtanh(x).backward(torch.ones(2, 8, 4, 4))
        assert x.grad.is_contiguous(memory_format=torch.channels_last)
