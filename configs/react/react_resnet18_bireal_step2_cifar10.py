_base_ = './react_resnet18_bireal_step1_cifar10.py'

# Both binary, from the weights of the first step.
model = dict(backbone=dict(conv_cfg=dict(binarize_weight=True)))
optim_wrapper = dict(optimizer=dict(weight_decay=0.0))
load_from = 'work_dirs/react_resnet18_bireal_step1_cifar10/epoch_200.pth'
