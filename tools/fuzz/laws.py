"""What must hold of every file that `quantize` has written: laws, each of which tests and the fuzzer may call.

A law takes a `Written` and returns what is wrong in one line, or None. What it compares with is worked out here from
the file, by onnxruntime and numpy alone, and shares no code with what it judges.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import onnxruntime

import dfmpc_onnx
from dfmpc_onnx.errors import UserError
from dfmpc_onnx.evaluation.output_differences import GroupFidelity
from dfmpc_onnx.model.source import load
from dfmpc_onnx.qdq.qonnx_nodes import loadable
from dfmpc_onnx.report.schema import Inspection, Report

BESIDE_DB = 0.011  # figures are rounded to 0.01
BESIDE_BITS = 0.1  # likewise
MOST_DB = 200.0  # that a figure is given as
OF_SUMS_DB = 120.0  # beyond it what differs is how float32 rounds sums, which follows the size of a batch
FAINT = 2.0**-24  # of the largest channel: a group of channels that is fainter is judged as if it were that large
EXPANDED_DB, EXPANDED_8_BITS_DB = 60.0, 20.0  # rounding of sums; a code more or less here and there
HALVES_DB, HALVES_8_BITS_DB = 40.0, 12.0  # the same where sums are rounded to half precision, in one of the forms
FOR_THE_CPU = ("cpu", "portable")  # targets whose integer layers are those of the provider that inspect asks
CHOOSING = ("TopK", "NonMaxSuppression", "ArgMax", "ArgMin", "NonZero")  # one of two values that lie near each other
OF_THE_USER = "images of yours"  # in what the closing check says that it compared on
IMAGES = 6
TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
}
Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Written:
    """A float model, the file that became of it, and the report on that. input_shapes: as they were given."""

    source: pathlib.Path
    target: pathlib.Path
    report: Report
    input_shapes: tuple[str, ...] = ()

    @functools.cached_property
    def inspection(self) -> Inspection:
        return dfmpc_onnx.inspect(self.target)

    @functools.cached_property
    def float_session(self) -> onnxruntime.InferenceSession:
        return session_of(self.source)

    @functools.cached_property
    def session(self) -> onnxruntime.InferenceSession:
        return session_of(self.target)

    def feeds(self) -> Feeds:
        """Inputs of the float model, of the shapes that were given where its own are open."""
        given = {name: dims for name, _, dims in (item.rpartition(":") for item in self.input_shapes)}
        generator, feeds = np.random.default_rng(3), {}
        for value in self.float_session.get_inputs():
            stated = [d if isinstance(d, int) and d > 0 else 1 if i == 0 else 8 for i, d in enumerate(value.shape)]
            shape = [int(d) for d in given[value.name].split("x")] if value.name in given else stated
            dtype = np.dtype(TYPES[value.type])
            x = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
            feeds[value.name] = np.asarray(x, dtype)
        return feeds


def check(source: pathlib.Path, target: pathlib.Path, report: Report, input_shapes: Sequence[str] = ()) -> str | None:
    """The first law that a written file breaks and how, in one line; None where it breaks none."""
    written = Written(source, target, report, tuple(input_shapes))
    for law in LAWS:
        wrong = law(written)
        if wrong is not None:
            return f"{law.__name__}: {wrong}"
    return None


def sizes_agree(written: Written) -> str | None:
    """The report and `inspect` give the bytes that the files have, those of external data included."""
    found = written.inspection.bytes, written.report.bytes, bytes_of(written.target)
    if len(set(found)) > 1:
        return f"bytes by inspect, the report and the file system: {found}"
    before = written.report.float_bytes, bytes_of(written.source)
    return f"bytes of the float model by the report and the file system: {before}" if len(set(before)) > 1 else None


def layers_agree(written: Written) -> str | None:
    """`inspect` reads off the file what the report says of each layer: codes, bits of a weight, integer arithmetic."""
    held = {layer.name: layer for layer in written.inspection.quantized_layers}
    for layer in written.report.layers:
        found, coded = held.get(layer.name), layer.bits != 32
        if found is None:
            if coded:
                return f"{layer.name}: {layer.bits} bits in the report, but inspect finds no such layer"
            continue
        if found.coded != coded and not layer.refused:
            return f"{layer.name}: {layer.bits} bits in the report, codes by inspect: {found.coded}"
        if coded and abs(found.stored_bits - layer.stored_bits) > BESIDE_BITS:
            return f"{layer.name}: {layer.stored_bits} bits stored by the report, {found.stored_bits} by inspect"
        on_cpu = written.report.target in FOR_THE_CPU
        if coded and on_cpu and found.integer is not None and found.integer != layer.integer:
            return f"{layer.name}: integers by the report {layer.integer}, by inspect {found.integer}"
    return _totals_agree(written)


def _totals_agree(written: Written) -> str | None:
    """The mean bits of a weight are the same by both, where both see the same layers in single precision."""
    layers, held = written.report.layers, written.inspection.quantized_layers
    found, stated = written.inspection.mean_weight_bits, written.report.mean_weight_bits
    alike = sorted(layer.name for layer in layers) == sorted(layer.name for layer in held)
    single = all(layer.coded or layer.stored_bits == 32 for layer in held)
    if found is not None and alike and single and abs(stated - found) > BESIDE_BITS:
        return f"mean bits {stated} in the report, {found} by inspect"
    return None


def verify_agrees(written: Written) -> str | None:
    """`verify` on its own inputs finds what the closing check of `quantize` has found on the same.

    Where images of the user's tell an input's scale the check compares on those, and verify without them on others:
    the figures are then not of the same inputs, and the network may run on the user's alone.
    """
    wanted = written.report.fidelity
    if wanted is None:
        return None
    try:
        seed = written.report.seed
        found = dfmpc_onnx.verify(written.source, written.target, input_shapes=written.input_shapes, seed=seed)
    except UserError as error:
        return None if OF_THE_USER in wanted.origin else f"the closing check compares, verify does not: {error}"
    (row,) = found.providers
    if (found.float_bytes, found.bytes) != (written.report.float_bytes, written.report.bytes):
        return f"verify: {found.float_bytes} and {found.bytes} bytes"
    same = OF_THE_USER not in wanted.origin
    if same and abs(row.fidelity.sqnr_db - wanted.sqnr_db) > BESIDE_DB and _repeats(written):
        return f"SQNR {wanted.sqnr_db} dB in the closing check, {row.fidelity.sqnr_db} dB by verify"
    return None


def expanded_is_equal(written: Written) -> str | None:
    """The plain form of a file gives the same outputs; or `expand` refuses in one line.

    The weights are the same bit for bit, which `expand` checks itself. onnxruntime folds a BatchNormalization into
    packed weights, which are constants to it, and not into plain ones, so sums are rounded otherwise in the last bit,
    and an activation in 8 bits may be of the next code. Some networks amplify that: their float model, too, gives
    something else where it is optimized. So what differs is looked at again as it stands, without optimizations.
    The CPU provider computes float16 in single precision between Casts, and leaves out those that it finds in pairs,
    so equal weights give other sums in either form: there more may differ. What is chosen among values that lie near
    each other then says nothing, nor does what is made of it: the values that are chosen among are compared instead.
    """
    path = written.target.with_name("expanded.onnx")
    try:
        dfmpc_onnx.expand(written.target, path)
    except UserError:
        return None
    optimized = not any(node.op_type in CHOOSING for node in onnx.load(path).graph.node)
    try:
        differs = _expanded_differs(written, path, optimized)
        return _expanded_differs(written, path, False) if differs is not None and optimized else differs
    except Exception as error:  # onnxruntime's exceptions have no common public base
        return f"the expanded file does not run: {error}"
    finally:
        path.unlink()


def _expanded_differs(written: Written, path: pathlib.Path, optimized: bool) -> str | None:
    """The first output that differs more than rounding explains, in a line."""
    feeds, graph = written.feeds(), onnx.load(written.target).graph
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    names = _compared(graph) if halves else [value.name for value in graph.output]
    session = session_of(written.target, optimized, names)
    want, again = (session.run(names, feeds) for _ in range(2))
    got = session_of(path, optimized, names).run(names, feeds)
    of_floats, of_8_bits = (HALVES_DB, HALVES_8_BITS_DB) if halves else (EXPANDED_DB, EXPANDED_8_BITS_DB)
    least = of_floats if written.report.activations == "none" else of_8_bits
    for name, a, b, c in zip(names, want, again, got, strict=True):
        if _is_same(a, b) and not _is_same(a, c):
            numbers = isinstance(a, np.ndarray) and a.dtype.kind == "f" and np.shape(a) == np.shape(c)
            if not numbers or _decibels([np.float64(a)], [np.float64(c)], None) < least:
                return f"output '{name}' of the expanded file differs"
    return None


def _compared(graph: onnx.GraphProto) -> list[str]:
    """The outputs that nothing is chosen for, and the computed values that are chosen among, by name."""
    behind: set[str] = set()
    among: dict[str, None] = {}
    for node in graph.node:
        if behind.intersection(node.input):
            behind.update(node.output)
        elif node.op_type in CHOOSING:
            among.update(dict.fromkeys(node.input[: 2 if node.op_type == "NonMaxSuppression" else 1]))
            behind.update(node.output)
    computed = {name for node in graph.node for name in node.output}
    plain = [value.name for value in graph.output if value.name not in behind]
    return list(dict.fromkeys([*plain, *(name for name in among if name in computed)]))


def verify_is_right(written: Written) -> str | None:
    """Given images, `verify` finds what a comparison of its own finds: signal over noise of each output."""
    images = _images(written)
    if images is None:
        return None
    path = written.target.with_name("images.npz")
    np.savez(path, x=images)
    try:
        found = dfmpc_onnx.verify(written.source, written.target, images=path, input_shapes=written.input_shapes)
    except UserError as error:
        refused = written.report.fidelity is not None and not _nothing_in_common(written, images)
        return f"verify on images: {error}" if refused else None
    finally:
        path.unlink()
    if not _repeats(written):
        return None
    fidelity, compared = found.providers[0].fidelity, []
    both = _both_by_hand(written, images)
    for stated, want, got in zip(fidelity.outputs, *both, strict=True):
        if stated.sqnr_db is None or want is None or got is None:
            continue
        if stated.rows_matched:  # in an order of their own
            compared.append(stated.sqnr_db)
            continue
        parts = [(None, stated.sqnr_db), *((group, group.sqnr_db) for group in stated.groups)]
        for group, said in parts[1:] or parts:
            right = _decibels(want, got, group)
            if abs(min(said, OF_SUMS_DB) - min(right, OF_SUMS_DB)) > BESIDE_DB:
                return f"output '{stated.name}': {said} dB by verify, {right:.2f} dB by hand ({group})"
        if stated.groups and stated.sqnr_db != min(group.sqnr_db for group in stated.groups):
            return f"output '{stated.name}': {stated.sqnr_db} dB is not that of its worst channels"
        compared.append(stated.sqnr_db)
    return (
        None
        if fidelity.sqnr_db in compared or not compared
        else f"{fidelity.sqnr_db} dB is that of no output: {compared}"
    )


def not_larger(written: Written) -> str | None:
    """A result is no larger than its input, or a warning gives the size of it in bytes."""
    before, after = bytes_of(written.source), bytes_of(written.target)
    if after <= before or any(f"{after} bytes" in warning for warning in written.report.warnings):
        return None
    return f"{before} -> {after} bytes, and no warning says so"


LAWS: tuple[Callable[[Written], str | None], ...] = (
    sizes_agree,
    layers_agree,
    verify_agrees,
    expanded_is_equal,
    verify_is_right,
    not_larger,
)


def bytes_of(path: pathlib.Path) -> int:
    """Bytes of a model's file and of the files beside it that hold its external data."""
    model = onnx.load(path, load_external_data=False)
    held = (item for tensor in model.graph.initializer for item in tensor.external_data if item.key == "location")
    return sum(path.with_name(name).stat().st_size for name in {path.name, *(item.value for item in held)})


def session_of(path: pathlib.Path, optimized: bool = True, names: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """A session of a file, which also gives the tensors of these names."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    found = loadable(load(path))  # of nodes of QONNX, which onnxruntime has not, a translation
    model = found if isinstance(found, onnx.ModelProto) else onnx.load(found)
    inner = set(names).difference(value.name for value in model.graph.output)
    if inner:
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name in inner)
    given = model.SerializeToString() if inner or found is model else str(found)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _repeats(written: Written) -> bool:
    """Whether the float model gives the same outputs again: what is drawn at random does not."""
    feeds = written.feeds()
    first, second = (written.float_session.run(None, feeds) for _ in range(2))
    return all(map(_is_same, first, second))


def _is_same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)


def _images(written: Written) -> np.ndarray | None:
    """Random images for a model of one float input that has a batch axis, whole batches of them; else None."""
    feeds = written.feeds()
    x = next(iter(feeds.values()))
    if len(feeds) != 1 or x.dtype.kind != "f" or x.ndim < 2 or not x.size:
        return None
    batch = written.float_session.get_inputs()[0].shape[0]
    count = 2 * batch if isinstance(batch, int) and batch > 0 else IMAGES
    return np.random.default_rng(5).standard_normal((count, *x.shape[1:])).astype(np.float32)


def _both_by_hand(written: Written, images: np.ndarray) -> tuple[Iterator[list[np.ndarray] | None], ...]:
    """What each output of both networks is on all images, in batches that both take: a target may fix an open one."""
    sessions = written.float_session, written.session
    fixed = [dim for session in sessions if isinstance(dim := session.get_inputs()[0].shape[0], int) and dim > 0]
    return tuple(_by_hand(session, images, min(fixed, default=len(images))) for session in sessions)


def _by_hand(
    session: onnxruntime.InferenceSession, images: np.ndarray, batch: int
) -> Iterator[list[np.ndarray] | None]:
    """What each output is on all images, run by run; None for what is no tensor of numbers."""
    (given,) = session.get_inputs()
    fed = [images[start : start + batch].astype(TYPES[given.type]) for start in range(0, len(images), batch)]
    for values in zip(*(session.run(None, {given.name: x}) for x in fed), strict=True):
        numbers = all(isinstance(value, np.ndarray) and value.dtype.kind in "fiub" for value in values)
        yield [np.asarray(value, np.float64) for value in values] if numbers else None


def _nothing_in_common(written: Written, images: np.ndarray) -> bool:
    """Whether no output holds the same number of values, and any, in both networks: other boxes are chosen, or none."""
    both = _both_by_hand(written, images)
    pairs = [(want, got) for want, got in zip(*both, strict=True) if want is not None and got is not None]
    return not any(
        any(a.size for a in want) and all(a.shape == b.shape for a, b in zip(want, got, strict=True))
        for want, got in pairs
    )


def _decibels(want: list[np.ndarray], got: list[np.ndarray], group: GroupFidelity | None) -> float:
    """Signal over noise in dB, of all values or of a group's channels."""
    signal = noise = least = 0.0
    with np.errstate(all="ignore"):
        for a, b in zip(want, got, strict=True):
            if group is not None:
                largest = max(np.square(x).sum() for x in np.moveaxis(a, group.axis, 0))
                index = np.concatenate([np.arange(first, last + 1) for first, last in group.channels])
                a, b = a.take(index, group.axis), b.take(index, group.axis)
                least += FAINT**2 * largest * len(index)
            signal += float(np.square(a).sum())
            noise += float(np.square(a - b).sum())
        if noise == 0 or not np.isfinite(noise):
            return MOST_DB if noise == 0 else -MOST_DB
        ratio = max(signal, least, 1e-300) / noise
        return float(np.clip(10 * np.log10(ratio), -MOST_DB, MOST_DB))
