"""Packs a trained checkpoint into a file with one bit per binary weight."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='config file, or PACKAGE::PATH of one in an installed package'
    )
    parser.add_argument('checkpoint', help='checkpoint file, or irnet://NAME')
    parser.add_argument('out', help='packed file to write, OUT.safetensors')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (default: from the test pipeline)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names, or a text file with one name per line (default: those of '
        'the checkpoint, or else of the data set)',
    )
    parser.add_argument(
        '--float-dtype',
        choices=('fp32', 'fp16', 'bf16'),
        default='fp32',
        help='dtype of first convolution, shortcuts and classifier; fp16 and bf16 '
        'print their effect on the test set',
    )
    parser.add_argument(
        '--ends',
        choices=('fp32', 'int8'),
        default='fp32',
        help='int8: first convolution, shortcuts and classifier compute with 8-bit '
        'integers; prints its effect on the test set',
    )
    parser.add_argument(
        '--activations',
        choices=('fp32', 'int8'),
        default='fp32',
        help='int8: so do layers with 1-bit weights and inputs that are not binary',
    )
    parser.add_argument(
        '--calibrate',
        metavar='FOLDER',
        help='images that show the ranges of 8-bit integers (default: the training '
        'set)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors, parse_options
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.packing import pack_checkpoint

        print(
            pack_checkpoint(
                args.config,
                args.checkpoint,
                args.out,
                size=args.size and tuple(args.size),
                classes=args.classes,
                float_dtype=args.float_dtype,
                ends=args.ends,
                activations=args.activations,
                calibrate=args.calibrate,
                cfg_options=parse_options(args.cfg_options),
            )
        )


if __name__ == '__main__':
    main()
