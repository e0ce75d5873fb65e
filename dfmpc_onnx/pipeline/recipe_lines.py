"""Where in a recipe's text a key or a table stands, so that a message can name the line."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of a TOML text; origin: the file's name in messages. Positions are ``file:line``, counted from 1."""

    origin: str
    text: str

    @functools.cached_property
    def _rows(self) -> list[str]:
        return self.text.splitlines()

    def at(self, line: int) -> str:
        return f"{self.origin}:{line}"

    def key(self, name: str, start: int = 1) -> str:
        """The first line at or behind `start` where a key or table has this name; `start` where none has."""
        pattern = rf"\s*(\[\[?\s*)?[\"']?{re.escape(name)}[\"']?\s*[\]=.]"
        return self.at(self._first(pattern, start) or start)

    def tables(self, name: str) -> list[int]:
        """The line of each ``[[name]]``."""
        pattern = rf"\s*\[\[\s*{re.escape(name)}\s*\]\]"
        return [n for n, line in enumerate(self._rows, 1) if re.match(pattern, line)]

    def table(self, *path: str) -> int:
        """The line of ``[a.b]``, or of ``b`` within ``[a]``; 1 where neither stands."""
        dotted = r"\s*\.\s*".join(rf"[\"']?{re.escape(part)}[\"']?" for part in path)
        found = self._first(rf"\s*(\[\s*)?{dotted}\s*[\]=.]", 1)
        return found or int(self.key(path[-1]).rpartition(":")[2])

    def use(self, name: object, start: int, nth: int = 1) -> str:
        """The line at or behind `start` that says ``use = "name"`` for the nth time; `start` where none does."""
        pattern = rf".*\buse\s*=\s*[\"']{re.escape(str(name))}[\"']"
        start = max(start, 1)
        for number, line in enumerate(itertools.islice(self._rows, start - 1, None), start):
            if re.match(pattern, line):
                nth -= 1
                if nth == 0:
                    return self.at(number)
        return self.at(start)

    def _first(self, pattern: str, start: int) -> int | None:
        start = max(start, 1)
        for number, line in enumerate(itertools.islice(self._rows, start - 1, None), start):
            if re.match(pattern, line):
                return number
        return None
