"""A call into torch as it is recorded, and the tables of what can be recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

from torch import nn

from ...errors import UnsupportedModelError

if TYPE_CHECKING:
    from .recorder import Recorder

# What records a call of a function, or of a whole layer: it gives the output's name.
FUNCTIONS: dict[Callable, Callable] = {}
LAYERS: dict[type[nn.Module], Callable] = {}


def function(*functions: Callable) -> Callable:
    """Registers what records calls of these functions of torch.

    It takes the call, then the arguments of the functions themselves.
    """

    def register(record: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(functions, record))
        return record

    return register


def layer(kind: type[nn.Module]) -> Callable:
    """Registers what records a whole layer, of the call, the layer and its input."""

    def register(record: Callable) -> Callable:
        LAYERS[kind] = record
        return record

    return register


def refuse(place: str, why: str) -> NoReturn:
    """Says in one line what cannot be packed, and why."""
    raise UnsupportedModelError(f'cannot pack {place}: {why}')


def is_number(value: Any) -> bool:
    """Whether an argument is one number, of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def name_of(function: Callable) -> str:
    """What a function of torch is called."""
    name = getattr(function, '__name__', str(function))
    # The getter of an attribute, such as x.data.
    return function.__self__.__name__ if name == '__get__' else name


@dataclass
class Call:
    """One call into torch, as it is recorded."""

    recorder: 'Recorder'
    function: Callable
    args: tuple
    kwargs: dict
    done: bool = False
    result: Any = None

    def run(self) -> Any:
        """What torch gives, computed once."""
        if not self.done:
            self.result = self.recorder.run(self.function, *self.args, **self.kwargs)
            self.done = True
        return self.result

    def refuse(self, why: str) -> NoReturn:
        """Says where in the model the call is, and why it cannot be packed."""
        refuse(self.recorder.place(), f'{name_of(self.function)}: {why}')
