"""The HTML page by its elements: sections, tables, charts, names that stay text, size, no network."""

from __future__ import annotations

import pathlib
import re

import msgspec
import pytest

import dfmpc_onnx
from dfmpc_onnx.api.pairs import take_pair
from dfmpc_onnx.api.report_diagnosis import diagnosis_of
from dfmpc_onnx.api.report_page import gather_page
from dfmpc_onnx.api.verify import verify_pair
from dfmpc_onnx.api.write_report import reported
from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.diagnosis.schema import Cause, Suspect
from dfmpc_onnx.evaluation.island_times import IslandTime, TimeTable
from dfmpc_onnx.pipeline.manager import Refusal
from dfmpc_onnx.pipeline.progress import no_report
from dfmpc_onnx.report.html.page import report_html
from dfmpc_onnx.report.html.schema import ReportPage, RunTimes, WidthStep
from dfmpc_onnx.report.html.thumbnails import SHOWN, shown_images
from tests.report.html.pages import HARMFUL, Page, harmful_model

SECTIONS = (
    "In short",
    "How good is it?",
    "What to try next",
    "Where is the loss?",
    "What causes it?",
    "Weights before and after",
    "Activations and their ranges",
    "Time and float islands",
    "Layers left in float or not paired, and why",
    "What the bytes hold",
    "All layers",
    "Images that were used",
    "How it was made",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page on a run of quantize() of a network whose names are meant to do harm."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    dfmpc_onnx.quantize(harmful_model(), None, "closed-form", weights="2/6", preprocess="imagenet", report=path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_element_is_closed(page: Page) -> None:
    assert not page.mistakes


def test_every_section_has_a_heading_and_is_linked_at_the_top(page: Page) -> None:
    (h1,) = page.root.all("h1")
    assert h1.text == "Quantization of the given model"
    assert tuple(heading.text for heading in page.root.all("h2")) == SECTIONS
    (nav,) = page.root.all("nav")
    targets = [(link.attributes["href"] or "").removeprefix("#") for link in nav.all("a")]
    assert targets == [heading.attributes["id"] for heading in page.root.all("h2")][1:]  # what is in short lies above


def test_ids_are_unique_and_references_have_a_target(page: Page) -> None:
    elements = page.root.every()
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    labels = [element.attributes.get("aria-labelledby") or "" for element in elements]
    assert {name for label in labels for name in label.split()} <= set(ids)
    assert {(use.attributes["href"] or "")[1:] for use in page.root.all("use")} <= set(ids)


def test_tables_have_captions_and_their_cells_have_headers(page: Page) -> None:
    tables = page.root.all("table")
    assert len(tables) >= 5
    for table in tables:
        assert len(table.all("caption")) == 1 and table.all("caption")[0].text
        assert all(header.attributes.get("scope") in ("col", "row") for header in table.all("th"))
        widths = {len(row.all("th") + row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1


def test_charts_say_what_they_show_and_pictures_too(page: Page) -> None:
    charts = page.root.all("svg")
    assert len(charts) >= 4
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert chart.all("title")[0].text and chart.all("desc")[0].text
    pictures = page.root.all("img")
    assert len(pictures) == SHOWN
    assert all(picture.attributes["alt"] and picture.attributes["src"] for picture in pictures)


def test_charts_take_the_colours_of_the_page(text: str) -> None:
    assert not re.findall(r"#0102\d\d", text)
    assert "var(--before)" in text and "prefers-color-scheme: dark" in text


def test_names_with_markup_and_control_characters_stay_text(text: str, page: Page) -> None:
    assert not page.root.all("script")
    assert [image for image in page.root.all("img") if not (image.attributes["src"] or "").startswith("data:")] == []
    assert not [name for element in page.root.every() for name in element.attributes if name.startswith("on")]
    for name in list(HARMFUL.values())[:3]:
        assert name in page.root.text
    assert "a?[31m?b?c&amp;d" in page.root.text
    assert "\x1b" not in text and "\u202e" not in text


def test_nothing_is_loaded_from_elsewhere(text: str, page: Page) -> None:
    assert not re.search(r"https?:", text)
    assert not page.root.all("link") and "@import" not in text and "url(h" not in text
    policy = [meta.attributes["content"] for meta in page.root.all("meta") if "http-equiv" in meta.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_it_is_small(text: str) -> None:
    assert len(text.encode()) < 250_000


def test_the_outcome_has_the_figures_of_the_run(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "page.html"
    made = dfmpc_onnx.quantize(model_file, tmp_path / "out.onnx", "int8", preprocess="imagenet", report=path)
    found = Page(path.read_text(encoding="utf-8")).root
    section = next(s for s in found.all("section") if s.attributes["aria-labelledby"] == "outcome")
    assert made.report.fidelity is not None
    values = [value.text for value in section.all("dd") if value.attributes["class"] == "value"]
    assert f"{made.report.fidelity.sqnr_db:g} dB" in values
    assert f"{made.report.mean_weight_bits:g}" in values
    rows = next(table for table in found.all("table") if table.all("caption")[0].text.startswith("All layers"))
    assert [row.all("th")[0].text for row in rows.all("tr")[1:]] == ["conv1", "conv2", "conv3", "gemm1"]


def test_the_shares_of_all_places_are_the_whole(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    page = gathered(model_file, quantized)
    assert sum(place.added or 0 for place in page.places) == pytest.approx(1)
    assert all(0 <= (place.added or 0) <= 1 for place in page.places)
    assert [layer.place for layer in page.layers] == sorted(layer.place or 0 for layer in page.layers)


def gathered(model: pathlib.Path, quantized: pathlib.Path) -> ReportPage:
    pair = take_pair(model, quantized, None, None, (), (), 0, 8)
    found = verify_pair(pair, ("CPU",), None, None, layer_errors=False)
    diagnosed = diagnosis_of(pair, "", None, blame=False, tell=no_report)
    return gather_page(reported(pair, found, diagnosed), latency=False, progress=no_report)


def test_what_cannot_be_had_is_said_with_its_reason(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    page = gathered(model_file, quantized)
    bare = msgspec.structs.replace(
        page,
        times=None,
        ranges=(),
        drawn=(),
        places=(),
        verdict=None,
        fidelity=None,
        diagnosis=None,
        untold={"time": "no clock", "activations": "no images", "outcome": "the float model does not run"},
    )
    found = Page(report_html(bare))
    assert not found.mistakes
    assert tuple(heading.text for heading in found.root.all("h2")) == SECTIONS
    for reason in ("no clock", "No images.", "The float model does not run.", "Not known"):
        assert reason in found.root.text


def sections(page: ReportPage) -> dict[str, str]:
    """The text of each section by its anchor."""
    found = Page(report_html(page))
    assert not found.mistakes
    return {part.attributes["aria-labelledby"] or "": part.text for part in found.root.all("section")}


@pytest.fixture
def planned(model_file: pathlib.Path, quantized: pathlib.Path) -> ReportPage:
    """A page on a run that planned its bits: what costs the output most is not where most error is made."""
    page = gathered(model_file, quantized)
    layers = [
        msgspec.structs.replace(
            layer,
            planned=loss,
            less=WidthStep("3", 4 * loss, -500),
            more=WidthStep("5", loss / 4, 700),
            alike=(layer.name,),
        )
        for layer, loss in zip(page.layers, (0.001, 0.04, 0.002, 0.001), strict=True)
    ]
    worst = next(layer.place or 0 for layer in layers if layer.planned == 0.04)
    places = tuple(
        msgspec.structs.replace(
            place,
            effect={layer.place: layer.planned for layer in layers}.get(number),
            added=0.0 if number == worst else 1 / (len(page.places) - 1),
        )
        for number, place in enumerate(page.places, 1)
    )
    made = {"plan_options": ("--recipe mixed", "--no-fp16"), "effect_by": "plan"}
    return losing(msgspec.structs.replace(page, layers=tuple(layers), places=places, **made), 0.08)


def losing(page: ReportPage, damage: float) -> ReportPage:
    """The page of a file that loses so much in all."""
    return msgspec.structs.replace(page, diagnosis=msgspec.structs.replace(page.diagnosis, damage=damage))


def test_where_activations_cost_most_weights_are_said_to_gain_little(planned: ReportPage) -> None:
    said = sections(losing(planned, 0.8))
    assert "All errors together: 80 %" in said["losses"]
    assert "most of the loss comes from the rounding of activations" in said["losses"]
    assert "costs the output most" not in said["losses"] and "Error made at the place itself" in said["losses"]
    assert "More bits for weights gain little here: they can take away at most 4.4 % of the 80 %" in said["advice"]


def test_what_costs_the_output_most_comes_before_what_makes_most_error(planned: ReportPage) -> None:
    said = sections(planned)["losses"]
    worst = max(planned.layers, key=lambda layer: layer.planned or 0)
    assert f"No. {worst.place} costs the output most: 91 % of what the bits of all weights" in said
    assert said.index("costs the output most") < said.index("Error made at the place itself")
    assert f"The two differ, since errors fade or grow on their way: change no. {worst.place} first" in said


def test_predictions_are_named_so_hold_no_decibels_and_keep_the_other_layers(planned: ReportPage) -> None:
    said = sections(planned)["advice"]
    assert "Predicted, not measured" in said and "4.4 % that the bits of all layers add" in said
    assert "-3 %" in said and "+0.7 kB" in said and "dB" not in said
    assert "--recipe mixed -o plan.toml" in said and "--recipe plan.toml --no-fp16 --layer conv2=5" in said


def test_a_cause_of_few_bits_comes_with_the_command_to_try(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    page = gathered(model_file, quantized)
    assert page.diagnosis is not None
    few = Suspect("weights", "conv2", "conv2", cause=Cause("too-few-bits", "its weights have 2 bits, too few"))
    page = msgspec.structs.replace(
        page,
        command="dfmpc-onnx quantize a.onnx -o b.onnx",
        diagnosis=msgspec.structs.replace(page.diagnosis, suspects=(few,), blamed=False),
    )
    wider = "dfmpc-onnx quantize a.onnx -o better.onnx --report better.html --layer conv2=8"
    assert wider in sections(page)["advice"] and wider in sections(page)["summary"]
    assert "--layer" not in sections(msgspec.structs.replace(page, command=""))["advice"]


def test_where_nothing_is_known_of_the_input_it_says_how_to_tell(planned: ReportPage) -> None:
    assert planned.verdict is not None
    unknown = msgspec.structs.replace(planned.verdict, level="not known", not_known="nothing tells the scale of 'x'")
    said = sections(msgspec.structs.replace(planned, verdict=unknown, diagnosis=None))["advice"]
    assert "Say what the input holds" in said and "--preprocess raw:bgr" in said and "--images FOLDER" in said


def test_under_a_limit_of_the_user_no_command_is_given(planned: ReportPage) -> None:
    said = sections(msgspec.structs.replace(planned, plan_options=("", "")))["advice"]
    assert "A higher limit lets the plan take the steps" in said and "--layer" not in said


def test_blame_says_what_goes_away_of_the_outputs_error(planned: ReportPage) -> None:
    places = [msgspec.structs.replace(place, effect=0.1) for place in planned.places]
    places[1] = msgspec.structs.replace(places[1], effect=0.6)
    said = sections(msgspec.structs.replace(planned, places=tuple(places), effect_by="blame"))["losses"]
    assert "No. 2 costs the output most: 60 % of its error goes away with it in float." in said


def test_each_layer_is_one_short_row_with_a_step_less_and_more(planned: ReportPage) -> None:
    (table,) = [
        table for table in Page(report_html(planned)).root.all("table") if "All layers" in table.all("caption")[0].text
    ]
    head = [header.text for header in table.all("tr")[0].all("th")]
    assert head[:7] == ["no.", "layer", "bits", "adds to the output", "one step less", "one step more", "kB for it"]
    assert "why" not in head and "computes in" not in head
    row = [cell.text for cell in table.all("tr")[2].all("td")]
    assert row[2:6] == ["4 %", "16 % at 3", "1 % at 5", "+0.7"]


def test_the_badge_says_what_it_means_and_that_it_is_an_estimate(planned: ReportPage) -> None:
    text = Page(report_html(planned)).root.text
    assert "Estimated, without real images. Good: 95 % of real inputs or more keep their class" in text
    assert "keep their class, estimated" in text


def test_units_are_named_with_one_sentence_that_converts_them(planned: ReportPage) -> None:
    assert planned.verdict is not None
    page = msgspec.structs.replace(planned, verdict=msgspec.structs.replace(planned.verdict, sqnr_db=22.0))
    assert "an error of 7.9 % is 0.63 % of the power, 22 dB" in sections(page)["outcome"]


def test_layers_that_are_low_are_not_said_to_be_left_as_they_were(planned: ReportPage) -> None:
    layers = list(planned.layers)
    layers[1] = msgspec.structs.replace(layers[1], role="low", bits="2")
    refused = (
        Refusal("conv2", "an Add follows", "no-chain", "pair_convolutions"),
        Refusal("conv3", "an Add follows", "no-chain", "pair_convolutions"),
    )
    said = sections(msgspec.structs.replace(planned, layers=tuple(layers), refusals=refused))["refusals"]
    assert "Why layers are not paired" in said and "1 of them has few bits all the same" in said
    assert "conv2, conv3:" in said and "an Add follows" in said and "pair_convolutions" not in said
    no_low = sections(msgspec.structs.replace(planned, refusals=refused))["refusals"]
    assert "paired: the error" not in no_low


def test_small_islands_are_a_sentence_and_a_sum_beyond_the_run_is_explained(planned: ReportPage) -> None:
    islands = (IslandTime(("conv1",), {"Conv": 1}, 0.5, 40.0), IslandTime(("gemm1",), {"Gemm": 1}, 0.01, 0.8))
    times = RunTimes(1.0, 1.0, 1, TimeTable(1.25, 0.74, islands, (), "x 1x3x8x8"), "x 1x3x8x8")
    said = sections(msgspec.structs.replace(planned, times=times, processor="Some CPU"))["time"]
    assert (
        "on Some CPU" in said
        and "kernels sum to 1.25 ms, more than the run, since profiling takes time for each" in said
    )
    assert "Islands of float between integers, the slowest first" in said
    assert "1 more island of float between integers takes 0.010 ms, 0.8 % of the sum" in said


def test_a_chart_of_ranges_that_shows_nothing_is_left_out(planned: ReportPage) -> None:
    fine = (ActivationRange("t", -1, 1, -1, 1, 0, 0),)
    assert "in units of the range" not in report_html(msgspec.structs.replace(planned, ranges=fine))
    loose = (*fine, ActivationRange("u", -9, 9, -1, 1, 0, 0), ActivationRange("v", 0, 1, 0, 4, 0, 0.2))
    said = sections(msgspec.structs.replace(planned, ranges=loose))["activations"]
    assert "Clipped" in said and "Range unused" in said and "in units of the range" in said


def test_how_it_was_made_has_the_machine_and_the_date(planned: ReportPage) -> None:
    said = sections(msgspec.structs.replace(planned, command="dfmpc-onnx quantize a.onnx"))["making"]
    assert "UTC" in said and "machine" in said and "dfmpc-onnx quantize a.onnx" in said
    assert "version of onnxruntime" in said and "unit, as given" in said


def test_layers_that_nothing_ranks_are_the_first(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    page = gathered(model_file, quantized)
    assert "layers that cost most" in Page(report_html(page)).root.text
    unranked = msgspec.structs.replace(
        page, places=tuple(msgspec.structs.replace(place, added=None, effect=None) for place in page.places)
    )
    text = Page(report_html(unranked)).root.text
    assert f"the first {len(page.drawn)} of {len(page.layers)} layers" in text and "layers that cost most" not in text


def test_the_weights_of_integer_operators_are_said_not_to_be_drawn(
    model_file: pathlib.Path, quantized: pathlib.Path
) -> None:
    page = gathered(model_file, quantized)
    layers = tuple(msgspec.structs.replace(layer, op="QLinearConv") for layer in page.layers)
    text = Page(report_html(msgspec.structs.replace(page, layers=layers, drawn=()))).root.text
    assert "Integer operators, such as QLinearConv, are compared as a whole" in text


def test_inputs_that_are_no_pictures_are_not_shown_as_some() -> None:
    assert shown_images(None, "16 vectors", 0).pictures == ()
    assert shown_images(None, "photos", None).note == "Images of yours are not put into the report."
