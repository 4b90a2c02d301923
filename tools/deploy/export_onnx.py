"""Export a config and checkpoint as ONNX, for compatibility, not for speed."""

import argparse

from mmengine.config import DictAction


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('out', help='the ONNX file')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the images; default: what the test pipeline gives',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    # Seconds of imports that -h does not need.
    from mmirnet.engine.errors import one_line_errors

    with one_line_errors():
        from mmirnet.deploy.checkpoint import export_checkpoint

        print(
            export_checkpoint(
                args.config,
                args.checkpoint,
                args.out,
                size=args.size and tuple(args.size),
                cfg_options=args.cfg_options,
            )
        )


if __name__ == '__main__':
    main()
