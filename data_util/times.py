"""Times as people write them into tables: seconds that can be."""

from __future__ import annotations

LATEST = 1e9  # seconds, 31 years; a larger number is a sample count, a date or a typo
WHAT = f"a time in seconds from 0 to {LATEST:,.0f}"


def parse_seconds(text: object) -> float:
    """A time from text or a number; ValueError unless it is a number from 0 to `LATEST`."""
    seconds = float(text)  # type: ignore[arg-type]
    if not 0.0 <= seconds <= LATEST:  # NaN fails, too
        raise ValueError(f"{text!r} is not {WHAT}")
    return seconds
