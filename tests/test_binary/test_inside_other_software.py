"""Binary layers where others copy, trace, transform, export or rewrite networks."""

import contextlib
import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import reference
import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mmirnet.binary import (
    Hardtanh,
    IRConv2d,
    IRLinear,
    binary_layers,
    ede,
    recipes,
    set_ede,
)
from mmirnet.errors import ConfigError


class Net(nn.Module):
    """Every layer of ours, with every kind of padding."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            Hardtanh(),
            IRConv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            Hardtanh(),
            IRConv2d(8, 8, 2, padding='same', groups=2, scale='mean', estimator='ste'),
            nn.BatchNorm2d(8),
            IRConv2d(8, 6, 3, padding=1, padding_mode='reflect', binarize_input=False),
            nn.BatchNorm2d(6),
        )
        self.head = IRLinear(6, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture
def net():
    net = Net()
    set_ede(net, 0.7, 1.5)
    with torch.no_grad():
        net(torch.randn(8, 3, 8, 8))  # statistics
    return net.eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


def through_cloudpickle(net):
    cloudpickle = pytest.importorskip('cloudpickle')
    return cloudpickle.loads(cloudpickle.dumps(net))


class TestCopies:
    @pytest.mark.parametrize(
        'copied',
        [
            copy.deepcopy,
            lambda net: pickle.loads(pickle.dumps(net)),
            through_cloudpickle,
        ],
        ids=['deepcopy', 'pickle', 'cloudpickle'],
    )
    def test_compute_and_train_the_same(self, net, x, copied):
        twin = copied(net)
        assert torch.equal(twin(x), net(x))
        for one in (net, twin):
            one.train()(x).square().sum().backward()
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)

    def test_whole_modules_in_a_file(self, net, x):
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), net(x))

    def test_one_network_in_two_threads(self, net, x):
        with torch.inference_mode():
            expected = net(x)
        with ThreadPoolExecutor(2) as threads:
            answers = threads.map(lambda image: net(image[None]), x)
        assert torch.equal(torch.cat(list(answers)), expected)

    def test_averaged(self, net, x):
        average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
        average.update_parameters(net)
        average.update_parameters(net)
        assert torch.allclose(average(x), net(x), atol=1e-5)
        assert list(average.module.state_dict()) == list(net.state_dict())

    def test_replicas_as_data_parallel_makes_them(self, x):
        """Plain tensors in place of parameters."""
        layer = IRConv2d(3, 4, 3)
        replica = layer._replicate_for_data_parallel()
        for name, parameter in layer.named_parameters():
            setattr(replica, name, parameter.clone())
        replica(x).square().sum().backward()
        through_replica, layer.weight.grad = layer.weight.grad, None
        layer(x).square().sum().backward()
        assert torch.equal(through_replica, layer.weight.grad)


class TestTraces:
    @pytest.mark.parametrize('grad_mode', [torch.no_grad, contextlib.nullcontext])
    def test_torchscript(self, net, x, grad_mode, tmp_path):
        with grad_mode():
            torch.jit.trace(net, x).save(tmp_path / 'net.pt')
            loaded = torch.jit.load(tmp_path / 'net.pt')
            other = torch.randn(3, 3, 8, 8)
            assert torch.equal(loaded(other), net(other))
            frozen = torch.jit.optimize_for_inference(loaded.eval())
            assert torch.allclose(frozen(other), net(other), atol=1e-5)
        assert 'aten::tanh(' not in str(loaded.inlined_graph)  # no estimators

    def test_a_trace_in_training_mode_trains(self, net, x):
        net.train()
        traced = torch.jit.trace(copy.deepcopy(net), x, check_trace=False)
        twin = copy.deepcopy(net)
        traced.load_state_dict(net.state_dict(), strict=False)
        for model in (twin, traced):
            model(x).square().sum().backward()
        for p, q in zip(twin.parameters(), traced.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize('layer', [IRConv2d(3, 4, 3), IRLinear(3, 4), Net()])
    def test_torch_jit_script_is_refused(self, layer):
        with pytest.raises(ConfigError, match=r'use torch\.jit\.trace in evaluation'):
            torch.jit.script(layer)

    @pytest.mark.parametrize(
        'strict, training', [(False, False), (True, False), (False, True)]
    )
    def test_export(self, net, x, strict, training):
        net.train(training)
        twin = copy.deepcopy(net)
        program = torch.export.export(net, (x,), strict=strict)
        operators = {str(node.target) for node in program.graph.nodes}
        assert not any('autograd' in name for name in operators)
        assert torch.allclose(program.module()(x), twin(x), atol=1e-5)

    @pytest.mark.parametrize('opset', [13, 17])
    def test_old_onnx_exporter(self, net, x, opset):
        import onnxruntime

        file = io.BytesIO()
        torch.onnx.export(
            net,
            (x,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=['x'],
            dynamic_axes={'x': {0: 'batch'}},
        )
        session = onnxruntime.InferenceSession(file.getvalue())
        other = torch.randn(3, 3, 8, 8)
        (answer,) = session.run(None, {'x': other.numpy()})
        assert torch.allclose(torch.tensor(answer), net(other), atol=1e-4)

    @pytest.mark.parametrize('dynamo', [False, True])
    @pytest.mark.parametrize('name', recipes.__all__)
    def test_onnx_exporters_take_every_recipe(self, name, dynamo):
        pytest.importorskip('onnxscript' if dynamo else 'onnx')
        import onnxruntime

        net = getattr(recipes, name)(4, 6, *([3] if name.endswith('2d') else [])).eval()
        x = torch.randn(2, 4, 5, 4)
        file = io.BytesIO()
        torch.onnx.export(net, (x,), file, dynamo=dynamo, verbose=False)
        session = onnxruntime.InferenceSession(file.getvalue())
        (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.tensor(answer), net(x), atol=1e-5)

    def test_new_onnx_exporter(self, net, x):
        pytest.importorskip('onnxscript')
        import onnxruntime

        program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
        data = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(data)
        (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.tensor(answer), net(x), atol=1e-4)

    def test_fx_keeps_layers_alive(self, net, x):
        """Later weights, t and k count, and gradients are the estimator's."""
        traced = torch.fx.symbolic_trace(net)
        with torch.no_grad():
            net.features[3].weight.neg_()
        set_ede(net, 0.3, 2.0)
        traced.recompile()
        for model in (net, traced):
            model.zero_grad()
        assert torch.equal(traced(x), net(x))
        net(x).square().sum().backward()
        expected = net.features[3].weight.grad.clone()
        net.zero_grad()
        traced(x).square().sum().backward()
        assert torch.equal(net.features[3].weight.grad, expected)


class TestTransforms:
    def test_functional_call(self, net, x):
        weights = {n: p * 1.5 + 0.1 for n, p in net.named_parameters()}
        twin = copy.deepcopy(net)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(weights[name])
        assert torch.allclose(functional_call(net, weights, (x,)), twin(x), atol=1e-6)

    def test_grad_equals_backward(self, net, x):
        net, x = net.double(), x.double()
        weights = dict(net.named_parameters())
        grads = grad(lambda w: functional_call(net, w, (x,)).square().sum())(weights)
        net(x).square().sum().backward()
        for name, p in weights.items():
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-9, atol=1e-9)

    def test_gradients_of_single_images(self, net, x):
        net, x = net.double(), x.double()
        weights = {n: p.detach() for n, p in net.named_parameters()}

        def loss(w, image):
            return functional_call(net, w, (image[None],)).square().sum()

        grads = vmap(grad(loss), (None, 0))(weights, x)
        for i, image in enumerate(x):
            net.zero_grad()
            net(image[None]).square().sum().backward()
            for name, p in net.named_parameters():
                torch.testing.assert_close(grads[name][i], p.grad, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize('mode', [torch.no_grad, contextlib.nullcontext])
    def test_vmap(self, net, x, mode):
        with mode():
            answer = vmap(lambda image: net(image[None])[0])(x)
            assert torch.allclose(answer, net(x), atol=1e-5)

    @pytest.mark.parametrize('mode', [torch.no_grad, contextlib.nullcontext])
    def test_forward_mode_equals_backward_mode(self, mode):
        layer = IRConv2d(3, 4, 3, padding=1).double()
        set_ede(layer, 0.7, 1.5)
        x, v, u = (torch.randn(2, c, 5, 5).double() for c in (3, 3, 4))
        with mode():
            _, tangent = jvp(layer, (x,), (v,))
        x.requires_grad_()
        (cotangent,) = torch.autograd.grad(layer(x), x, u)
        assert torch.allclose((tangent * u).sum(), (cotangent * v).sum())
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.detach(), v)
            y = layer(dual)
            assert torch.allclose(
                torch.autograd.forward_ad.unpack_dual(y).tangent, tangent
            )

    @pytest.mark.parametrize('binarize_input', [True, False])
    @pytest.mark.parametrize('bias', [True, False])
    def test_derivatives_of_derivatives(self, binarize_input, bias):
        ours = IRConv2d(3, 4, 3, bias=bias, binarize_input=binarize_input).double()
        theirs = reference.ReferenceConv2d(
            3, 4, 3, bias=bias, binarize_input=binarize_input
        ).double()
        theirs.load_state_dict(ours.state_dict())
        set_ede(ours, 0.7, 1.5)
        theirs.t.fill_(0.7), theirs.k.fill_(1.5)
        x = torch.randn(2, 3, 5, 5, dtype=torch.double, requires_grad=True)
        seconds = []
        for layer in (ours, theirs):
            inputs = [x, *layer.parameters()]
            first = torch.autograd.grad(
                layer(x).square().sum(), inputs, create_graph=True
            )
            penalty = sum(g.square().sum() for g in first)
            seconds.append(torch.autograd.grad(penalty, inputs))
        for a, b in zip(*seconds, strict=True):
            assert torch.allclose(a, b, rtol=1e-6)

    @pytest.mark.parametrize('reentrant', [True, False])
    def test_gradient_checkpointing(self, reentrant):
        layer = IRConv2d(3, 4, 3)
        x = torch.randn(2, 3, 5, 5, requires_grad=True)
        layer(x).square().sum().backward()
        expected = x.grad, layer.weight.grad
        x.grad = layer.weight.grad = None
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        y.square().sum().backward()
        assert torch.equal(x.grad, expected[0])
        assert torch.equal(layer.weight.grad, expected[1])

    def test_inference_mode(self, net, x):
        with torch.inference_mode():
            answer = net(x)
        assert torch.equal(answer, net(x))
        net.train()(x).sum().backward()  # and training goes on


class TestTypes:
    @pytest.mark.parametrize(
        'dtype', [torch.float64, torch.float16, torch.bfloat16], ids=str
    )
    def test_cast_networks(self, net, x, dtype):
        cast = copy.deepcopy(net).to(dtype)
        y = cast(x.to(dtype))
        assert y.dtype == dtype and y.isfinite().all()
        y.float().square().sum().backward()
        assert all(p.grad.dtype == dtype for p in cast.parameters())
        layer, image = IRConv2d(8, 4, 3), torch.randn(2, 8, 5, 5)
        # Casting may flip a sign among the weights: none of them is near zero.
        layer.weight.data = torch.randn(4, 8, 3, 3).sign() / 4
        y = layer.to(dtype)(image.to(dtype))
        bias = layer.bias.float()
        w = layer.binary_weight().float()
        assert torch.allclose(
            y.float(), F.conv2d(image.to(dtype).float().sign(), w, bias), rtol=1e-2
        )

    @pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.complex64])
    @pytest.mark.parametrize('binarize_input', [True, False])
    def test_input_that_is_not_floating_point(self, dtype, binarize_input):
        layer = IRConv2d(3, 4, 3, binarize_input=binarize_input)
        with pytest.raises(ConfigError, match='x must be floating point, got torch'):
            layer(torch.ones(1, 3, 5, 5).to(dtype))

    def test_complex_layers(self):
        for layer in (IRConv2d, IRLinear):
            args = (3, 4, 3) if layer is IRConv2d else (3, 4)
            with pytest.raises(ConfigError, match=r'got torch\.complex'):
                layer(*args, dtype=torch.complex64)

    @pytest.mark.parametrize('shape', [(5,), (5, 5), (1, 1, 3, 5, 5)])
    def test_wrong_number_of_dimensions(self, shape):
        with pytest.raises(RuntimeError, match=r'Expected 3D .* or 4D'):
            IRConv2d(3, 4, 3)(torch.randn(shape))

    @pytest.mark.parametrize(
        'options',
        [
            dict(groups=3, dilation=2, stride=(2, 1), padding=(0, 3)),
            dict(padding='valid'),
            dict(padding='same', padding_mode='circular', bias=False),
            dict(padding=1, padding_mode='replicate'),
        ],
    )
    def test_an_image_without_a_batch(self, options):
        layer = IRConv2d(3, 6, (3, 2), **options)
        x = torch.randn(3, 9, 8)
        assert torch.equal(layer(x), layer(x[None])[0])


class TestMetaDevice:
    def test_to_empty(self):
        with torch.device('meta'):
            net = Net()
        net = net.to_empty(device='cpu')
        for _, layer in binary_layers(net):
            assert layer.ede.tolist() == pytest.approx(ede(0))
            assert not layer.schedule_is_set

    def test_assigned_weights(self, net, x):
        with torch.device('meta'):
            twin = Net()
        twin.load_state_dict(net.state_dict(), assign=True)
        for _, layer in binary_layers(twin):
            assert layer.ede.tolist() == pytest.approx(ede(0))
        assert torch.equal(twin.eval()(x), net(x))
        twin(x).sum().backward()


def norm_for(layer):
    kind = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    norm = kind(layer.weight.shape[0]).eval()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


class TestFusion:
    @pytest.mark.parametrize('bias', [True, False])
    @pytest.mark.parametrize('scale', ['shift', 'mean', None])
    @pytest.mark.parametrize('fresh', [True, False])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_with_a_batch_norm_is_refused(self, bias, scale, fresh, dtype):
        conv = IRConv2d(4, 6, 3, bias=bias, scale=scale).to(dtype).eval()
        linear = IRLinear(4, 6, bias=bias, scale=scale).to(dtype).eval()
        fused = [(conv, fuse_conv_bn_eval), (linear, fuse_linear_bn_eval)]
        fused.append((conv, lambda c, n: fuse_conv_bn(nn.Sequential(c, n))))
        for layer, fuse in fused:
            norm = norm_for(layer).to(dtype)
            if fresh:
                norm.running_var.fill_(4)
                norm.weight.data.fill_(1)
            before = {n: p.clone() for n, p in layer.state_dict().items()}
            with pytest.raises(ConfigError, match='cannot be fused with a batch norm'):
                fuse(layer, norm)
            assert layer.state_dict().keys() == before.keys()
            assert all(torch.equal(layer.state_dict()[n], before[n]) for n in before)

    def test_others_leave_binary_layers_alone(self, net, x):
        from torch.ao.quantization import fuse_modules, quantize_dynamic
        from torch.fx.experimental.optimization import fuse

        expected = net(x)
        assert torch.allclose(fuse(copy.deepcopy(net))(x), expected, atol=1e-5)
        quantized = quantize_dynamic(net, {nn.Linear, nn.Conv2d})
        assert type(quantized.head) is IRLinear
        assert torch.allclose(quantized(x), expected, atol=1e-5)
        with pytest.raises(AssertionError, match=r'did not find fuser .*IRConv2d'):
            fuse_modules(net, [['features.3', 'features.4']])

    @pytest.mark.parametrize('layer', [IRConv2d(4, 6, 3), IRLinear(4, 6)])
    def test_other_weights_may_be_given(self, layer):
        weights = [
            torch.randn_like(layer.weight),
            torch.zeros_like(layer.weight),
            layer.weight.detach().clone(),
            layer.weight.detach().clamp(-0.1, 0.1),
            layer.weight.detach().double(),
        ]
        for weight in weights:
            twin = copy.deepcopy(layer)
            twin.weight = nn.Parameter(weight)
            assert twin.weight.data_ptr() == weight.data_ptr()
            twin.load_state_dict(layer.state_dict(), assign=True)


class TestReparametrisations:
    @pytest.mark.parametrize(
        'reparametrise',
        [
            nn.utils.weight_norm,
            parametrizations.weight_norm,
            parametrizations.spectral_norm,
            lambda layer: parametrize.register_parametrization(
                layer, 'weight', nn.Tanh()
            ),
        ],
        ids=['old weight_norm', 'weight_norm', 'spectral_norm', 'tanh'],
    )
    @pytest.mark.filterwarnings('ignore:.*weight_norm.*:FutureWarning')
    def test_the_computed_weight_is_binarised(self, reparametrise, x):
        layer = IRConv2d(3, 4, 3)
        reparametrise(layer).eval()
        twin = IRConv2d(3, 4, 3)
        twin.load_state_dict(dict(weight=layer.weight, bias=layer.bias))
        assert torch.equal(layer(x), twin(x))
        layer(x).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())

    @pytest.mark.parametrize('layer', [IRConv2d(3, 4, 3), IRLinear(3, 4)])
    def test_pruning_is_refused(self, layer):
        weight = layer.weight
        for prunes in (
            lambda: prune.l1_unstructured(layer, 'weight', amount=0.5),
            lambda: prune.ln_structured(layer, 'weight', amount=1, n=2, dim=0),
            lambda: prune.global_unstructured(
                [(layer, 'weight')], prune.L1Unstructured, amount=0.5
            ),
        ):
            with pytest.raises(ConfigError, match='cannot be pruned'):
                prunes()
            assert layer.weight is weight
        assert not layer._forward_pre_hooks
        layer.weight = nn.Parameter(weight.detach().clone())
