"""Writes configs/*/metafile.yml from the configs and the published models."""

import argparse


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if it is out of date'
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments, and writes or compares."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.zoo import metafile

        for folder in metafile.COLLECTIONS:
            if args.check:
                metafile.check(folder)
            else:
                print(metafile.write(folder))


if __name__ == '__main__':
    main()
