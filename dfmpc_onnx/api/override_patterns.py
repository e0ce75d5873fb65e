"""Many overrides of single layers as a few patterns, as a person would write them."""

from __future__ import annotations

import collections
import fnmatch
import glob
import itertools
from collections.abc import Iterator, Mapping, Sequence

MOST_PAIRED = 64  # layers of one width, up to which any two may make a pattern; of more, neighbours alone


def as_patterns(bits: Mapping[str, str], others: Sequence[str] = ()) -> list[str]:
    """Overrides ``GLOB=BITS`` that give each layer its bits, of which the last that matches counts.

    bits: by the name of each layer. others: the names of layers that no pattern may match.
    """
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for name, text in bits.items():
        groups[text].append(name)
    if not groups:
        return []
    usual = max(groups, key=lambda text: len(groups[text]))
    found = [f"*={usual}"] if not others else []
    for text, names in groups.items():
        if text == usual and not others:
            continue
        strangers = [*(name for name, own in bits.items() if own != text), *others]
        found += [f"{pattern}={text}" for pattern in _covering(names, strangers)]
    return found


def _covering(names: Sequence[str], strangers: Sequence[str]) -> list[str]:
    """Patterns that match all of these names and none of the others, the broadest first."""
    left, found = set(names), []
    reach = {pattern: _matched(pattern, names, strangers) for pattern in set(_candidates(names))}
    while reach:
        best = max(sorted(reach), key=lambda pattern: len(reach[pattern] & left))
        if len(reach[best] & left) < 2:
            break
        found.append(best)
        left -= reach.pop(best)
    return found + [glob.escape(name) for name in names if name in left]


def _candidates(names: Sequence[str]) -> Iterator[str]:
    """What two names have in common at their ends, with anything between."""
    pairs = itertools.combinations(names, 2) if len(names) <= MOST_PAIRED else itertools.pairwise(names)
    for one, other in pairs:
        start = _alike(one, other)
        end = _alike(one[start:][::-1], other[start:][::-1])
        yield f"{glob.escape(one[:start])}*{glob.escape(one[len(one) - end :])}"


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _matched(pattern: str, names: Sequence[str], strangers: Sequence[str]) -> set[str]:
    """The names that a pattern matches; none where it matches one of the others."""
    if any(fnmatch.fnmatchcase(name, pattern) for name in strangers):
        return set()
    return {name for name in names if fnmatch.fnmatchcase(name, pattern)}
