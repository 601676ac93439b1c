"""Text from strangers (labels, names of files) made safe to show on a terminal, in a log and in a table."""

from __future__ import annotations

import copy
import logging
import os
import unicodedata

# Categories of Unicode that a terminal may obey instead of showing, and line breaks; but joiners are parts of words.
_OBEYED, _JOINERS = {"Cc", "Cf", "Cs", "Zl", "Zp"}, "\u200c\u200d"


def printable(text: str, keep: str = "") -> str:
    """Text from a stranger (a label, the name of a file) for a terminal or table: what is no character is escaped.

    Escape sequences, line breaks, marks that turn the direction and halves of characters become `\\x1b` and the like;
    characters in `keep` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode()
        if is_obeyed(character) and character not in keep
        else character
        for character in text
    )


def is_obeyed(character: str) -> bool:
    """Whether a character is none to read, but one that a terminal or an editor obeys, or half of one."""
    return unicodedata.category(character) in _OBEYED and character not in _JOINERS


class PrintableFormatter(logging.Formatter):
    """A line of a log in which names from strangers (labels, files) break no line and drive no terminal.

    Of what is put into a sentence ("%s was not read") line breaks are escaped, too; a text that is the whole message
    ("%s") keeps its lines: whoever lays out a table escapes the names in it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        if record.msg != "%s" and isinstance(record.args, tuple):
            record = copy.copy(record)
            record.args = tuple(_shown(value) for value in record.args or ())
        return printable(super().format(record), keep="\n")


def _shown(value: object) -> object:
    return printable(str(value)) if isinstance(value, (str, os.PathLike, BaseException)) else value
