"""What pydantic finds wrong with a value, in the words of somebody who wrote a recipe and knows no pydantic."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hybridkit.system.errors import nearest

_WORDS = {
    "model_type": "should be a mapping of keys to values",
    "model_attributes_type": "should be a mapping of keys to values",
    "dict_type": "should be a mapping of keys to values",
    "list_type": "should be a list",
    "tuple_type": "should be a list of two numbers",
    "missing": "has too few values",
    "too_long": "has too many values",
    "too_short": "has too few values",
    "extra_forbidden": "is not known here",
    "string_too_short": "should not be empty",
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "none_required": "should be null",
    "is_instance_of": "is of another kind than what belongs here",
}


def first_error(error: ValidationError) -> str:
    """The first mistake in one line of bounded length: the dotted name of the value, and what is wrong with it."""
    first = error.errors()[0]
    said = (
        "is missing" if first["type"] == "missing" else wrong(first)
    )  # for wrong(), what is missing is an element of a list
    return f"{dotted(first['loc'])[:80]} {said[:200]}".lstrip()


def dotted(path: Sequence[str | int]) -> str:
    """The keys and places that lead to a value, as recipes and messages write them: `train.betas.0`."""
    return ".".join(map(str, path))


def unknown_key(owner: str, name: str, key: str, known: Sequence[str]) -> str:
    """That `owner` has no key `key`, which is shown as `name`: the nearest known key, or all of them."""
    close = nearest(key, known)
    hint = f'did you mean "{close}"?' if close else f"known here: {', '.join(known)}"
    return f"{owner} has no {name}; {hint}"


def wrong(error: ErrorDetails) -> str:
    """What follows the name of the value: "should be a whole number"; what a validator raised, as it says it."""
    cause = error.get("ctx", {}).get("error")
    if cause is not None:
        return str(cause)
    if error["type"] == "missing" and isinstance(key := error["loc"][-1], str):
        return f"needs `{key}`"
    if error["type"] in _WORDS:
        return _WORDS[error["type"]]
    said = error["msg"].removeprefix("Input ").replace("valid ", "")
    return said if said.startswith("should") else "is not what belongs here"
