"""Checks of the fields of a packed file, which may have any content."""

from .limits import MAX_NUMBER


class Reject(ValueError):
    """The reason why a field is invalid. The caller adds the field and the file."""


def need(condition: bool, why: str) -> None:
    """Rejects a field unless a condition holds.

    Args:
        condition (bool): The condition.
        why (str): The reason, for the message.

    Raises:
        Reject: If the condition does not hold.
    """
    if not condition:
        raise Reject(why)


def integer(fields: dict, name: str, low: int, high: int) -> int:
    """Returns a field that must be an integer from low to high.

    Args:
        fields (dict): The fields.
        name (str): Name of the field.
        low (int): Smallest allowed value.
        high (int): Largest allowed value.

    Returns:
        int: The value.

    Raises:
        Reject: If the field is missing, out of range or not an integer (a bool is not).
    """
    value = fields.get(name)
    need(
        type(value) is int and low <= value <= high,
        f'{name} must be an integer in [{low}, {high}], not {value!r}',
    )
    return value


def number(fields: dict, name: str) -> float:
    """Returns a field that must be a finite number of moderate size.

    Args:
        fields (dict): The fields.
        name (str): Name of the field.

    Returns:
        float: The value.

    Raises:
        Reject: If the field is missing, not a number, or beyond +-``MAX_NUMBER``.
    """
    value = fields.get(name)
    need(
        type(value) in (int, float) and abs(value) <= MAX_NUMBER,
        f'{name} must be a number within +-{MAX_NUMBER}, not {value!r}',
    )
    return value


def boolean(fields: dict, name: str) -> bool:
    """Returns a field that must be true or false.

    Args:
        fields (dict): The fields, which include it.
        name (str): Name of the field.

    Returns:
        bool: The value.

    Raises:
        Reject: If it is not a bool.
    """
    need(type(fields[name]) is bool, f'{name} must be a bool')
    return fields[name]
