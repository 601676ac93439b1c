"""JSON that every reader takes: without NaN and infinities, which the format does not have."""

from __future__ import annotations

import json
import math
from typing import Any


def json_text(value: Any, **options: Any) -> str:
    """JSON of a value, text as it is; a number that is not finite becomes null. `options` are those of `json.dumps`."""
    return json.dumps(_finite(value), **{"ensure_ascii": False, "allow_nan": False, **options})


def _finite(value: Any) -> Any:
    """The same with None in the place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
