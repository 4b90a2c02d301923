# ResNet-20 with Bi-Real structure, Hardtanh and shortcuts without parameters; 400
# epochs of SGD. The other files here change the recipe and nothing else.
_base_ = '../irnet/resnet20_bireal_cifar10-jpeg.py'
