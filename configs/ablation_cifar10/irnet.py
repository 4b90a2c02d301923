# IR-Net as in the paper, EDE from t = 0.001; what the other files here change one thing
# of. ResNet-20 on the JPEG copy of CIFAR-10.
_base_ = '../irnet/resnet20_bireal_cifar10-jpeg.py'
