"""The one exception that a user's mistake ends in."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user, worded in one line: what was wrong, where, and what to do.

    Scripts print it without a traceback and exit with code 2.
    """
