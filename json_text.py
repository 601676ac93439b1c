"""JSON that every reader takes, without NaN and infinities, and that no terminal obeys."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

from printable import is_obeyed

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")


def json_text(value: Any, **options: Any) -> str:
    """JSON of a value; a number that is not finite becomes null. `options` are those of `json.dumps`.

    Letters of all languages stay; control characters (also those above ASCII), marks that turn the direction, line
    separators and halves of characters are escaped as \\uXXXX, so that reading gives the same text.
    """
    text = json.dumps(_finite(value), **{"ensure_ascii": False, "allow_nan": False, **options})
    return _BEYOND_ASCII.sub(lambda match: _escaped(match[0]), text)


@lru_cache(4096)
def _escaped(character: str) -> str:
    """A character as it stands in JSON; outside of strings JSON is ASCII."""
    if not is_obeyed(character):
        return character
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]  # json escapes no DEL


def _finite(value: Any) -> Any:
    """The same with None in the place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
