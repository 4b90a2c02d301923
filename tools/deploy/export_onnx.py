"""Exports a config and checkpoint to ONNX, for compatibility, not for speed."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='config file, or PACKAGE::PATH of one in an installed package'
    )
    parser.add_argument('checkpoint', help='checkpoint file, or irnet://NAME')
    parser.add_argument('out', help='ONNX file to write')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (default: from the test pipeline)',
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
        from mmirnet.apis.packing import export_checkpoint

        print(
            export_checkpoint(
                args.config,
                args.checkpoint,
                args.out,
                size=args.size and tuple(args.size),
                cfg_options=parse_options(args.cfg_options),
            )
        )


if __name__ == '__main__':
    main()
