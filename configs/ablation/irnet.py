# IR-Net as in the paper; what the other files here change one thing of. A short
# budget that two CPU cores can pay: 10,000 images, 10 epochs.
_base_ = '../irnet/resnet20_bireal_fashionmnist.py'

in_memory = True
compile = True
channels_last = True

train_dataloader = dict(dataset=dict(indices=10000))
param_scheduler = dict(T_max=10)
train_cfg = dict(max_epochs=10)
