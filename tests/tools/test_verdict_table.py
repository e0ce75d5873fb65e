"""The table that says how often the verdict's interval holds: each network is judged by the others."""

import pathlib
import re

import numpy as np

from dfmpc_onnx.evaluation.verdict import LAW_OF_GENERATED, LAW_OF_IMAGES, NETWORKS_OF_LAWS
from tools.experiments.verdict import Measured, law, table

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "tables" / "verdict.md"
TANGENTS = (0.05, 0.1, 0.2)


def rows(factors: dict[str, float]) -> list[Measured]:
    """Networks in which the odds of a change are a factor times the tangent."""
    made = []
    for name, factor in factors.items():
        for tangent in TANGENTS:
            changed = round(10_000 * factor * tangent / (1 + factor * tangent))
            few = (tangent, round(24 * changed / 10_000), 24)
            made.append(Measured(name, f"{tangent}", 20.0, tangent, *few, tangent, changed, 10_000))
    return made


def test_the_law_is_that_of_networks_and_a_folded_twin_is_no_network_of_its_own() -> None:
    found = law(rows({"a": 0.1, "afolded": 0.1, "b": 0.1 * 10**0.4}), lambda row: row.generated)
    assert abs(found.mean - (-1 + 0.2)) < 0.01 and found.freedom == 1
    assert abs(found.deviation - 0.4 / np.sqrt(2) * np.sqrt(1.5)) < 0.01


def test_a_network_that_others_say_nothing_of_is_missed() -> None:
    factors = dict(zip("abcdef", 0.15 * 10 ** np.array([-0.1, -0.05, 0, 0.02, 0.05, 0.1]), strict=True))
    lines = table(rows(factors))
    assert "- without images: 18 of 18 rows lie in the interval (100 %)" in lines
    lines = table(rows({**factors, "odd": 5.0}))
    assert [line.split("|")[1].strip() for line in lines if "(missed)" in line].count("odd") >= 3


def test_the_laws_of_the_product_are_those_of_the_table_in_which_nine_of_ten_intervals_hold() -> None:
    page = TABLE.read_text()
    for kind, held in (("generated inputs", LAW_OF_GENERATED), ("images", LAW_OF_IMAGES)):
        said = f"- law of {kind}: mean {held.mean:.2f}, deviation {held.deviation:.2f}, freedom {held.freedom}\n"
        assert said in page
    shares = [int(share) for share in re.findall(r"rows lie in the interval \(([0-9]+) %\)", page)]
    assert len(shares) == 2 and min(shares) >= 90
    networks = {line.split("|")[1].strip().removesuffix("folded") for line in page.splitlines()[2:] if "|" in line}
    assert len(networks) == NETWORKS_OF_LAWS == LAW_OF_GENERATED.freedom + 1
