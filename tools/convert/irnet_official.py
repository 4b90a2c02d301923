"""Converts a checkpoint of IR-Net's released code to one of this project."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint of the released code')
    parser.add_argument('dst', help='converted checkpoint to write, DST.pth')
    parser.add_argument(
        '--arch',
        required=True,
        choices=['resnet20', 'resnet18-cifar', 'resnet18', 'resnet34', 'vgg-small'],
        help='the network, of every structure and all W/A bits; resnet18 and resnet34 '
        'are those for ImageNet',
    )
    args = parser.parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.conversion import convert

        print(convert(args.src, args.dst, args.arch))


if __name__ == '__main__':
    main()
