import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.zoo.ctc import alike, collapsed, distance, read

WORDS = st.lists(st.integers(1, 3), max_size=7)


def scores(*lines):
    """What a network that is sure of each step gives out."""
    return np.eye(5)[np.array(lines)]


@pytest.mark.parametrize(
    ("steps", "said"),
    [([], ()), ([0, 0], ()), ([1, 1, 2], (1, 2)), ([0, 1, 1, 0, 1, 0], (1, 1)), ([3, 0, 0, 3, 2, 2], (3, 3, 2))],
)
def test_repeats_are_one_and_blanks_none(steps, said):
    assert collapsed(np.array(steps, int)) == said


@given(WORDS)
def test_what_is_written_with_blanks_between_is_read_back(word):
    steps = np.array([0, *(step for letter in word for step in (letter, letter, 0))])
    assert collapsed(steps) == tuple(word)


@given(WORDS, WORDS, WORDS)
def test_the_distance_is_a_metric(a, b, c):
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))


def recursive(a, b):
    """Levenshtein's distance as it is defined."""
    if not a or not b:
        return len(a) + len(b)
    return min(recursive(a[1:], b) + 1, recursive(a, b[1:]) + 1, recursive(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.lists(st.integers(1, 2), max_size=4), st.lists(st.integers(1, 2), max_size=4))
def test_the_distance_is_the_fewest_edits(a, b):
    assert distance(a, b) == recursive(a, b)


def test_lines_and_characters_alike():
    want = scores([1, 2, 0, 2], [1, 1, 3, 4])
    assert read(want) == [(1, 2, 2), (1, 3, 4)]
    assert str(alike(want, want)) == "lines read alike: 2 of 2, characters: 100.0 %"
    found = alike(want, scores([1, 1, 2, 2], [1, 0, 3, 4]))
    assert (found.same, found.lines, found.characters) == (1, 2, pytest.approx(100 * 5 / 6))


def test_nothing_to_read_and_nonsense_read():
    nothing = scores([0, 0, 0])
    assert alike(nothing, nothing).characters == 100
    assert alike(scores([1, 0, 0]), scores([2, 3, 4])).characters == 0
