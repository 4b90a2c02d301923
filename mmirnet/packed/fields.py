"""Checks of the fields of a packed file, which may hold anything."""

from .limits import MAX_NUMBER


class Reject(ValueError):
    """Why a field is wrong; who reads the file adds its name and the position."""


def need(condition: bool, why: str) -> None:
    """Rejects what does not fulfil a condition.

    Raises:
        Reject: With the reason.
    """
    if not condition:
        raise Reject(why)


def integer(fields: dict, name: str, low: int, high: int) -> int:
    """A field that must be an integer in [low, high], and no bool.

    Raises:
        Reject: If it is missing or anything else.
    """
    value = fields.get(name)
    need(
        type(value) is int and low <= value <= high,
        f'{name} must be an integer in [{low}, {high}], not {value!r}',
    )
    return value


def number(fields: dict, name: str) -> float:
    """A field that must be a number, finite and not huge.

    Raises:
        Reject: If it is missing or anything else.
    """
    value = fields.get(name)
    need(
        type(value) in (int, float) and abs(value) <= MAX_NUMBER,
        f'{name} must be a number within +-{MAX_NUMBER}, not {value!r}',
    )
    return value


def boolean(fields: dict, name: str) -> bool:
    """A field that must be true or false.

    Raises:
        Reject: If it is anything else.
    """
    need(type(fields[name]) is bool, f'{name} must be a bool')
    return fields[name]
