"""Runs torchrun without its reports on mistakes that a process has already reported.

The script parses the tool's command line first, so that a mistake there is reported
once. A process that exits with code 2 has printed its error; torchrun would add a
report on each process. SIGUSR1 is passed on to the processes, as torchrun does with
SIGTERM: both preempt a run.
"""

import logging
import runpy
import signal
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

#: Exit code of a process that has printed a one-line error.
TOLD = 2


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record says more than that a process reported an error and ended."""
    message = record.getMessage()
    return f'failed (exitcode: {TOLD})' not in message and (
        'closing signal SIGTERM' not in message
    )


def pass_on(number: int, frame: object) -> None:
    """Lets torchrun send a signal to its processes, and wait for their end."""
    number = signal.Signals(number)
    raise SignalException(f'the launcher received {number.name}', sigval=number)


def main() -> None:
    """Runs torchrun with the arguments of this script."""
    options = torchrun.parse_args(sys.argv[1:])
    sys.argv = [options.training_script, *options.training_script_args]
    runpy.run_path(options.training_script)['parse_args']()

    log = logging.getLogger('torch.distributed.elastic.multiprocessing.api')
    log.addFilter(is_news)
    signal.signal(signal.SIGUSR1, pass_on)
    try:
        torchrun.run(options)
    except SignalException as error:
        print(f'{error.sigval.name} ended the job', file=sys.stderr)
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode == TOLD:
            sys.exit(TOLD)
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
