_base_ = './biper_resnet18_normal_step1_cifar10.py'

# Their signs, from the weights of the first step.
model = dict(
    type='BinaryClassifier',
    regulariser=dict(type='BiPerRegulariser', loss_weight=1e-4),
    backbone=dict(conv_cfg=dict(binarize_weight=True)),
)
train_cfg = dict(max_epochs=300)
load_from = 'work_dirs/biper_resnet18_normal_step1_cifar10/epoch_600.pth'
