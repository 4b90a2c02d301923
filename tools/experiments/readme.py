"""Writes tables and plots of the results into the pages that show them."""

import argparse
from pathlib import Path


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'pages', nargs='*', help='pages, such as README.md (default: all of them)'
    )
    args = parser.parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.analysis.readme import pages, update_page

        for page in args.pages or pages(Path(__file__).parents[2]):
            update_page(page)
            print(page)


if __name__ == '__main__':
    main()
