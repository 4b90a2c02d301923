_base_ = './biper_resnet18_bireal_step1_in1k.py'

# Their signs, from the weights of the first step.
model = dict(
    type='BinaryClassifier',
    regulariser=dict(type='BiPerRegulariser', loss_weight=1e-4),
    backbone=dict(conv_cfg=dict(binarize_weight=True)),
)
load_from = 'work_dirs/biper_resnet18_bireal_step1_in1k/epoch_100.pth'
