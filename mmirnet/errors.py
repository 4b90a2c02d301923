"""What this package raises where the user can mend it.

The tools print these in one line, and errors of the operating system (a missing file,
a full disk). Everything else is a bug and keeps its traceback.
"""


class MmirnetError(Exception):
    """A mistake that its message names, with the way out."""


class ConfigError(MmirnetError, ValueError):
    """An argument, a setting or a command line that cannot work."""


class DataError(MmirnetError, ValueError):
    """Images, labels or classes that do not fit."""


class CheckpointError(MmirnetError, ValueError):
    """A checkpoint that is damaged, unsafe or of another network."""


class NonFiniteError(MmirnetError, ArithmeticError):
    """A number of a training run is NaN or infinite."""


class UnsupportedModelError(MmirnetError, ValueError):
    """A model that the packed format cannot hold."""


class PackedFileError(MmirnetError, ValueError):
    """A packed file that cannot be trusted; the message names file and field."""


class ZooError(MmirnetError, ValueError):
    """A zoo or a model in it that cannot be used."""


class MissingPackageError(MmirnetError, ImportError):
    """A package that has to be installed first."""


def first_line(error: BaseException) -> str:
    r"""What an error of others says, in one line; its type if it says nothing.

    Example:
        >>> first_line(OSError('no space\nleft')), first_line(KeyError())
        ('no space', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
