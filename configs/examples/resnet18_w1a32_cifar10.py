# MMPretrain's own ResNet-18 with binary weights: its config, our layer and hook.
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'

custom_imports = dict(imports=['mmirnet'], allow_failed_imports=False)

# W/A bits 1/32, because behind this backbone's ReLU the sign of all activations is +1.
# For 1/1 use IRResNet_CIFAR.
model = dict(backbone=dict(conv_cfg=dict(type='IRConv2d', binarize_input=False)))
custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10)]
