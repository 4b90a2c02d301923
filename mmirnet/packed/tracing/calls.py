"""A call into torch as it is recorded, and the tables of what can be recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

from torch import nn

from ...errors import UnsupportedModelError

if TYPE_CHECKING:
    from .recorder import Recorder

# Functions that record a call of a function, or of a whole layer. They return the name
# of the output.
FUNCTIONS: dict[Callable, Callable] = {}
LAYERS: dict[type[nn.Module], Callable] = {}


def function(*functions: Callable) -> Callable:
    """Registers the decorated function to record calls of functions of torch.

    Args:
        *functions (Callable): Functions of torch. The decorated function takes the
            :class:`Call`, and then their arguments.

    Returns:
        Callable: The decorator.
    """

    def register(record: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(functions, record))
        return record

    return register


def layer(kind: type[nn.Module]) -> Callable:
    """Registers the decorated function to record layers of a class as a whole.

    Args:
        kind (type[nn.Module]): The class. The decorated function takes the
            :class:`Call`, the layer and its input.

    Returns:
        Callable: The decorator.
    """

    def register(record: Callable) -> Callable:
        LAYERS[kind] = record
        return record

    return register


def refuse(place: str, why: str) -> NoReturn:
    """Refuses a part of a model.

    Raises:
        UnsupportedModelError: Always; names the place and the reason.
    """
    raise UnsupportedModelError(f'cannot pack {place}: {why}')


def is_number(value: Any) -> bool:
    """Whether an argument is one number, of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def name_of(function: Callable) -> str:
    """Returns the name of a function of torch."""
    name = getattr(function, '__name__', str(function))
    # The getter of an attribute, such as x.data.
    return function.__self__.__name__ if name == '__get__' else name


@dataclass
class Call:
    """A call into torch that is being recorded."""

    recorder: 'Recorder'
    function: Callable
    args: tuple
    kwargs: dict
    done: bool = False
    result: Any = None

    def run(self) -> Any:
        """Returns the result of torch, which is computed once."""
        if not self.done:
            self.result = self.recorder.run(self.function, *self.args, **self.kwargs)
            self.done = True
        return self.result

    def refuse(self, why: str) -> NoReturn:
        """Refuses the call; the error names its place in the model and the reason."""
        refuse(self.recorder.place(), f'{name_of(self.function)}: {why}')
