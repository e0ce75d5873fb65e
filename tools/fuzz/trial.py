"""One case: make a model from a number, quantize it with drawn options, and judge what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

import dfmpc_onnx
from dfmpc_onnx.errors import Defect, UserError, printable
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.model.source import load
from dfmpc_onnx.qdq.qonnx_nodes import loadable
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime import session as runtime
from tools.fuzz import laws
from tools.fuzz.mutations import mutated
from tools.fuzz.networks import Network, network
from tools.fuzz.options import FAR
from tools.fuzz.rounding import rounded

ROOT = pathlib.Path(__file__).parents[2]
AGREEING, REFUSED, ERROR = "quantized, agrees", "all layers refused, agrees", "clear error"
ALONE = "quantized, but the float model does not run"
MEMORY = "not enough memory within the limit"  # which the command line says in one line
GOOD = (AGREEING, REFUSED, ERROR, ALONE, MEMORY)
LARGEST_FILE = 1_600_000
IN_MEMORY = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None  # files of cases: no disk has to be waited for
LEEWAY = 6.0  # dB below what plain rounding leaves, by chance
LEAST_CHECKED = 12.0
LOOP_SECONDS = 0.5  # for a run of a model that holds a Loop: of the random ones, those that end do so in milliseconds

MORE_FEEDS = 16
UNTOUCHED = 80.0  # dB where nothing has been quantized
UNTOUCHED_HALVES = 40.0  # likewise, of a network in float16: the file computes in float32, which rounds less
# Recipe and options, and the least SQNR in dB where weights are such as training leaves. At few bits, in networks of a
# few random weights, no figure holds for all, and ranges derived without a run are rough behind operators such as Exp.
# Where nothing says what an input holds, activations stay in float unless 8 bits are asked for.
SETTINGS: tuple[tuple[dict[str, object], float | None], ...] = (
    ({"recipe": "int8"}, 3.0),
    ({"recipe": "int8", "activations": "8"}, 3.0),
    ({"recipe": "int8", "preprocess": "raw"}, None),
    ({"recipe": "int8", "preprocess": "imagenet", "target": "tensorrt"}, None),
    ({"recipe": "int8", "activations": "none"}, 20.0),
    ({"recipe": "int8", "layers": ["*=float"], "activations": "none"}, UNTOUCHED),
    ({"recipe": "per-channel", "weights": "8"}, 0.0),
    ({"recipe": "per-channel", "weights": "8", "activations": "8"}, 0.0),
    ({"recipe": "per-channel", "weights": "8", "activations": "none"}, 20.0),
    ({"recipe": "closed-form", "weights": "8"}, 0.0),
    ({"recipe": "closed-form", "weights": "8", "activations": "8"}, 0.0),
    ({"recipe": "closed-form", "weights": "8", "activations": "none"}, 20.0),
    ({"recipe": "mixed"}, None),
    ({"recipe": "mixed", "activations": "8"}, None),
    ({"recipe": "mixed", "activations": "8", "target": "openvino", "reduce_range": True}, None),
    ({"recipe": "mixed", "weights": "2/6"}, None),
    ({"recipe": "mixed", "weights": "ternary/6", "activations": "none"}, None),
    ({"recipe": "mixed", "layers": ["*1=float", "*2=3", "*=5"]}, None),
    ({"recipe": "int4"}, None),
    ({"recipe": "int4", "preprocess": "unit"}, None),
    ({"recipe": "closed-form"}, None),
    ({"recipe": "closed-form", "weights": "2/6", "activations": "none"}, None),
    ({"recipe": "per-channel", "weights": "2/6"}, None),
    ({"recipe": "per-channel", "weights": "ternary/6", "activations": "none"}, None),
    ({"recipe": "per-channel", "weights": "7", "layers": ["conv*=4"]}, None),
    ({"recipe": "paper"}, None),
    ({"recipe": "paper", "weights": "2/6", "activations": "8"}, None),
)
CLOSED = tuple(item for item in SETTINGS if item[0]["recipe"] in ("paper", "per-channel", "closed-form"))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is tried: the bytes of a model, the options, and how near the result has to be.

    least_sqnr: in dB on noise. beside: files next to the model by name; an option `images` names one of them. varying:
    outputs whose size depends on values, by index. ordinary: whether weights are such as training leaves.
    """

    kind: str
    source: str
    model: bytes
    options: dict[str, object]
    least_sqnr: float | None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    varying: tuple[int, ...] = ()
    ordinary: bool = False

    @property
    def least_checked(self) -> float | None:
        """The least SQNR in dB by the closing check, whose inputs are such as the statistics come from.

        There 8 bits of activations promise something, too: what they cost beyond 20 dB stays in float. Not where
        normalizations were measured on other inputs, or a preprocess is given: ranges then hold for those.
        """
        others = self.options.keys() & {"layers", "images", "preprocess"} or b"BatchNormalization" in self.model
        plain = self.options.get("weights", "8") == "8" and not others
        return LEAST_CHECKED if self.ordinary and plain and self.options["recipe"] == "int8" else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it. place: what groups defects of one cause; detail: the message, traceback or figure.

    seconds: of processor time, drawing included; 0 where it is not known.
    """

    outcome: str
    place: str = ""
    detail: str = ""
    seconds: float = 0.0


def files() -> list[pathlib.Path]:
    """Small models to damage: the project's own, onnx's, and those of DFMPC_DATA where it is set."""
    folders = [ROOT / "models", pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"]
    if "DFMPC_DATA" in os.environ:
        folders.append(pathlib.Path(os.environ["DFMPC_DATA"]) / "models")
    # Sorted folder by folder: a case must not depend on where the checkout lies.
    found = [p for folder in folders for p in sorted(folder.rglob("*.onnx"))]
    # onnx's light_* make the weights of whole networks as they run: minutes for each.
    small = [p for p in found if p.stat().st_size <= LARGEST_FILE and "light" not in p.parts]
    # What holds no Conv is refused in one way: a few of them are enough.
    return [p for i, p in enumerate(small) if i % 10 == 0 or b"Conv" in p.read_bytes()]


def drawn(seed: int, number: int, sources: Sequence[pathlib.Path]) -> Case:
    """The case with a number: the same whenever the seed, the sources and this code are the same."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.random()
    options, least = rng.choice(SETTINGS)
    if kind < 0.6:
        return of_network("random network", network(rng), options, least)
    if kind < 0.75 or not sources:
        made = network(rng, spoiled=False).model.SerializeToString()
        return Case("damaged random network", "network", mutated(made, rng), options, None)
    file = rng.choice(sources)
    data = recent(file.read_bytes())
    if len(data) > 100_000:  # networks of real size: recipes that run none of it
        if rng.random() < 0.7:
            file = rng.choice([s for s in sources if s.stat().st_size <= 100_000] or [file])
            data = recent(file.read_bytes())
        else:
            options, _ = rng.choice(CLOSED)
    return Case("damaged file", "/".join(file.parts[-3:]), mutated(data, rng), options, None)


def recent(data: bytes) -> bytes:
    """Models of opsets that are refused at once would try nothing else: they say 9, under which most of them run."""
    model = onnx.ModelProto.FromString(data)
    if model.opset_import and model.opset_import[0].version < 7:
        model.opset_import[0].version = 9
    return model.SerializeToString()


def of_network(kind: str, made: Network, options: dict[str, object], least: float | None) -> Case:
    """A network as it is; options get the sizes of its open dimensions."""
    options = {**options, "input_shapes": made.input_shapes}
    data, least = made.model.SerializeToString(), least if made.ordinary else None
    return Case(kind, "network", data, options, least, ordinary=made.ordinary)


def tried(case: Case) -> Outcome:
    """Quantize from file to file in an empty folder; warnings are errors, and a Loop gets little time."""
    with _short_loops(), tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        source, target = pathlib.Path(folder) / "model.onnx", pathlib.Path(folder) / "out.onnx"
        source.write_bytes(case.model)
        for name, data in case.beside.items():
            (source.parent / name).write_bytes(data)
        options = dict(case.options)
        if "images" in options:
            options["images"] = source.parent / str(options["images"])
        try:
            made = dfmpc_onnx.quantize(source, target, **options)  # type: ignore[arg-type]
        except UserError as error:
            line = str(error)
            left = sorted(p.name for p in pathlib.Path(folder).iterdir())
            if line != printable(line) or len(line) > 1000:
                return Outcome("defect", "message", f"not one clean line: {line[:300]!r}")
            if left != sorted(["model.onnx", *case.beside]):
                return Outcome("defect", "files", f"left behind: {left}")
            return Outcome(ERROR, _without_names(line), line)
        except MemoryError as error:
            return Outcome(MEMORY, _place(error), traceback.format_exc())
        except Exception as error:
            return Outcome("defect", _place(error), traceback.format_exc())
        if source.read_bytes() != case.model:
            return Outcome("defect", "input", "the input was written to")
        outcome = _judged(case, source, target, all(layer.refused for layer in made.report.layers))
        if outcome.outcome in (AGREEING, REFUSED):
            if (lost := _lost_to_activations(case, source, options, made.report)) is not None:
                return Outcome("defect", "activations", lost)
            shapes = case.options.get("input_shapes", ())
            broken = laws.check(source, target, made.report, shapes)  # type: ignore[arg-type]
            if broken is not None:
                return Outcome("defect", broken.partition(":")[0], broken)
        return outcome


def _lost_to_activations(case: Case, source: pathlib.Path, options: dict[str, object], report: Report) -> str | None:
    """What 8 bits of activations cost beyond their budget on inputs that they were made for; None where they do not."""
    least, found = case.least_checked, report.fidelity
    if least is None or found is None or found.sqnr_db >= least:
        return None
    weights = dfmpc_onnx.quantize(source, **{**options, "activations": "none"}).report.fidelity  # type: ignore[arg-type]
    if weights is None or found.sqnr_db >= weights.sqnr_db - LEEWAY:
        return None
    return f"SQNR {found.sqnr_db:.1f} dB in the closing check, {weights.sqnr_db:.1f} with float activations"


def _plainly_rounded(source: pathlib.Path, want: list[list[np.ndarray]], feeds: list[dict[str, np.ndarray]]) -> float:
    """SQNR in dB of the same network with its weights rounded to 8 bits: see `rounding`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rounded.onnx"
        path.write_bytes(rounded(onnx.load(source)).SerializeToString())
        session = _session(path)
        found = _sqnr(want, [_run(session, fed) for fed in feeds])
    return found if isinstance(found, float) else 120.0


@contextlib.contextmanager
def _short_loops() -> Iterator[None]:
    usual, runtime.LOOP_SECONDS = runtime.LOOP_SECONDS, LOOP_SECONDS
    try:
        yield
    finally:
        runtime.LOOP_SECONDS = usual


def _judged(case: Case, source: pathlib.Path, target: pathlib.Path, refused: bool) -> Outcome:
    """What is to be said of a file that was written."""
    wrong = _invalid(target)
    if wrong and not _invalid(source):  # a source without shapes of its outputs is taken, and keeps them
        return Outcome("defect", "checker", wrong)
    try:
        reference = _session(source)
        feeds = [_feeds(reference, case, seed) for seed in (1, 2)]
        want = [_run(reference, fed) for fed in feeds]
    except Exception as error:  # onnxruntime's exceptions have no common public base
        return Outcome(ALONE, "", str(error))
    try:
        candidate = _session(loadable(load(target)))
        got = [_run(candidate, fed) for fed in feeds]
    except Exception as error:
        return Outcome("defect", "the result does not run", str(error))
    found = _sqnr(want, got, case.varying)
    if isinstance(found, str):
        return Outcome("defect", found, "")
    if case.least_sqnr is not None and found < case.least_sqnr:
        # A single number may lie near 0 by chance, where any error is large beside it; not in so many runs.
        feeds = [_feeds(reference, case, seed) for seed in range(1, MORE_FEEDS + 1)]
        try:
            want, got = ([_run(session, fed) for fed in feeds] for session in (reference, candidate))
        except Exception as error:
            return Outcome("defect", "the result does not run", str(error))
        found = _sqnr(want, got, case.varying)
        if isinstance(found, str):
            return Outcome("defect", found, "")
    untouched = refused and case.options.get("activations") == "none"
    least = _least_untouched(case.model) if untouched else case.least_sqnr
    if (
        least is not None
        and found < least
        and not (not untouched and found > _plainly_rounded(source, want, feeds) - LEEWAY)
    ):
        return Outcome("defect", "disagrees", f"SQNR {found:.1f} dB, at least {least} wanted")
    return Outcome(REFUSED if refused else AGREEING, "", f"{found:.1f}")


def _least_untouched(model: bytes) -> float:
    """The SQNR in dB that a file has at least in which no layer is quantized."""
    tensors = onnx.load_model_from_string(model).graph.initializer
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in tensors)
    return UNTOUCHED_HALVES if halves else UNTOUCHED


def _invalid(path: pathlib.Path) -> str | None:
    """What onnx's checker has against a file."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        return str(error)
    return None


def _session(model: pathlib.Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    given = str(model) if isinstance(model, pathlib.Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs; an error of onnxruntime's where a Loop does not end."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(LOOP_SECONDS * 4, lambda: setattr(options, "terminate", True))
    timer.start()
    try:
        results: list[np.ndarray] = session.run(None, feeds, options)
        return results
    finally:
        timer.cancel()


def _feeds(session: onnxruntime.InferenceSession, case: Case, seed: int) -> dict[str, np.ndarray]:
    shapes = {}
    for item in case.options.get("input_shapes", ()):  # type: ignore[attr-defined]
        name, _, dims = item.rpartition(":")
        shapes[name] = [int(d) for d in dims.split("x")]
    generator, feeds = np.random.default_rng(seed), {}
    mean, deviation = _pixels(str(case.options.get("preprocess", "")))
    for value in session.get_inputs():
        stated = [d if isinstance(d, int) and d > 0 else 1 if i == 0 else 8 for i, d in enumerate(value.shape)]
        shape = shapes.get(value.name, stated)
        dtype = laws.TYPES[value.type]
        # Byte 0 is -2.1 deviations of a photograph's pixels and 255 is 2.6: a range that ends there is none too narrow.
        numbers = np.clip(generator.standard_normal(shape), -2, 2) if np.issubdtype(dtype, np.floating) else None
        if numbers is not None and len(shape) == 4:
            numbers = mean + deviation * numbers
        feeds[value.name] = np.asarray(generator.integers(0, 2, shape) if numbers is None else numbers, dtype)
    return feeds


def _pixels(preprocess: str) -> tuple[float, float]:
    """Mean and deviation of what pixels are under a preprocess that leaves them large; else normal numbers do.

    Ranges for bytes round inputs about 1 to nothing, and where a norm divides by nothing there is no number.
    """
    if preprocess not in FAR:
        return 0.0, 1.0
    mean, variance = Preprocess.parse(preprocess).moments(3)
    return float(mean.mean()), float(np.sqrt(variance.mean()))


def _sqnr(want: list[list[np.ndarray]], got: list[list[np.ndarray]], varying: Sequence[int] = ()) -> float | str:
    """Of all outputs together in dB, or what is wrong with them. varying: outputs whose size depends on values."""
    signal = noise = 0.0
    for index, (a, b) in enumerate(zip(_flat(want), _flat(got), strict=True)):
        if index % len(want[0]) in varying:
            if a.ndim != b.ndim or a.dtype != b.dtype:
                return "outputs of another rank or type"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return "outputs of another shape or type"
        if a.dtype.kind != "f":
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        known = np.isfinite(x)
        if np.isinf(x).any():  # of outputs beyond all numbers it is chance which are
            known &= np.isfinite(y)
        if not np.isfinite(y[known]).all():
            return "NaN or infinity where the float model has none"
        signal += float(np.square(x[known]).sum())
        noise += float(np.square(x[known] - y[known]).sum())
    if noise <= 1e-12 * signal or noise < 1e-60:
        return 120.0
    return 10 * float(np.log10(max(signal, 1e-300) / noise))


def _flat(runs: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.asarray(out) for run in runs for out in run]


def _place(error: BaseException) -> str:
    """Where in this project an exception began: its kind, file and line."""
    cause: BaseException = error
    while isinstance(cause, Defect) and cause.__cause__ is not None:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    ours = [f for f in frames if "dfmpc_" in f.filename] or list(frames)
    return f"{type(cause).__name__} {pathlib.Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _without_names(line: str) -> str:
    """An error's sentence with what it quotes left out, to count how often it was said."""
    head = line.partition(": ")[2] or line
    return "'".join(part for index, part in enumerate(head.split("'")) if index % 2 == 0)[:60]
