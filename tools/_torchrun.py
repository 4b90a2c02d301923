"""torchrun, which leaves it to a process to say what its user has to mend.

Reads the tool's command line first, so that a mistake there is told once. A process
that ends with code 2 has told its own; torchrun would add a report of each process.
"""

import logging
import runpy
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

#: Exit code of a process that has told its user what to mend.
TOLD = 2


def is_news(record: logging.LogRecord) -> bool:
    """Whether torchrun logs more than who told, and whom it ends for that."""
    message = record.getMessage()
    return f'failed (exitcode: {TOLD})' not in message and (
        'closing signal SIGTERM' not in message
    )


def main() -> None:
    """Runs torchrun with the arguments of this script."""
    options = torchrun.parse_args(sys.argv[1:])
    sys.argv = [options.training_script, *options.training_script_args]
    runpy.run_path(options.training_script)['parse_args']()

    log = logging.getLogger('torch.distributed.elastic.multiprocessing.api')
    log.addFilter(is_news)
    try:
        torchrun.run(options)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode == TOLD:
            sys.exit(TOLD)
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
