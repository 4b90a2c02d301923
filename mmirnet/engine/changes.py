"""What is different where a run is resumed."""

import ast


def parse_config(text: str | None) -> dict | None:
    """Read the text of a config as MMEngine writes it, without running it.

    Args:
        text (str | None): ``Config.pretty_text``.

    Returns:
        dict | None: Nested dicts and lists; None if the text is no such config.
        What is neither a literal nor a container stays as its text.

    Example:
        >>> parse_config("model = dict(type='Net', sizes=[1, 2], low=-inf)")
        {'model': {'type': 'Net', 'sizes': [1, 2], 'low': '-inf'}}
    """
    try:
        lines = ast.parse(text or '').body
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = {}
    for line in lines:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[line.targets[0].id] = _value(line.value)
    return found or None


def _value(node: ast.expr) -> object:
    match node:
        case ast.Call(func=ast.Name(id='dict'), args=[]):
            return {k.arg: _value(k.value) for k in node.keywords}
        case ast.Dict():
            keys = [_value(k) if k else None for k in node.keys]
            return dict(zip(map(str, keys), map(_value, node.values), strict=True))
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(n) for n in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
