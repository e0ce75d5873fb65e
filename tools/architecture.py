#!/usr/bin/env python3
"""The generated parts of docs/architecture.md: wings and arrows, modules, the path of `quantize`, figures.

    python -m tools.architecture            # write them
    python -m tools.architecture --check    # exit 1 where the file is not what would be written

All is read off the source, which is parsed and never imported. A part stands between ``<!-- map: begin NAME -->`` and
``<!-- map: end -->``, where NAME is wings, path, passes, figures, or ``modules WING``. The check fails as well where a
wing has no part of its own: a new wing needs a section that says what belongs there.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import itertools
import pathlib
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENT = pathlib.Path("docs/architecture.md")
PACKAGES = {"dfmpc_onnx": pathlib.Path("dfmpc_onnx"), "dfmpc_passes": pathlib.Path("passes/dfmpc_passes")}
START, ENTRY, RECIPE = "dfmpc_onnx.api.quantize", "quantize", "passes/dfmpc_passes/recipes/mixed.toml"
FOLLOWED = ("dfmpc_onnx.api.intake", "dfmpc_onnx.api.closing_check")  # parts of quantize() in files of their own
LONG = 60  # lines of a function
# The call with which each part of the path begins.
PHASES = {"": "What is asked for", "load": "From the file to the first pass", "PassManager": "The passes of the recipe"}
LAST = "From the last pass to the result"
PART = re.compile(r"(<!-- map: begin ([\w ]+) -->\n).*?(<!-- map: end -->)", re.S)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Module:
    """A module as parsed. imports: the project's modules that it imports, late imports too."""

    name: str
    path: pathlib.Path
    tree: ast.Module
    lines: int
    imports: frozenset[str]

    @property
    def wing(self) -> str:
        parts = self.name.split(".")
        return parts[0] if parts[0] == "dfmpc_passes" or len(parts) == 1 else parts[1]

    @property
    def inside_a_wing(self) -> bool:
        """Whether it stands in the folder of a wing, and not beside those folders."""
        return self.wing == "dfmpc_passes" or self.name.count(".") > 1

    @property
    def summary(self) -> str:
        return first_line(self.tree)

    @property
    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file is out of date")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    document = args.root / DOCUMENT
    parts = generated(args.root)
    text = document.read_text(encoding="utf-8")
    there = {match[2] for match in PART.finditer(text)}
    faults = [f"'{name}' has no place; give it a section" for name in parts if name not in there]
    faults += [f"'{name}' is nothing that is generated" for name in sorted(there - parts.keys())]
    fresh = PART.sub(lambda match: f"{match[1]}{parts.get(match[2], '')}{match[3]}", text)
    if fresh != text and args.check:
        faults.append("out of date; run python -m tools.architecture")
    elif fresh != text:
        document.write_text(fresh, encoding="utf-8")
    for fault in faults:
        print(f"{DOCUMENT}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def generated(root: pathlib.Path) -> dict[str, str]:
    """Each generated part by name, as Markdown that ends in a line break."""
    modules = read_modules(root)
    floors = read_floors(root)
    parts = {"wings": wing_diagram(modules, floors), "floors": floor_list(floors), "figures": figures(modules)}
    parts |= {"path": path_diagram(modules), "passes": recipe_passes(root, modules)}
    for wing in sorted({module.wing for module in modules.values() if module.inside_a_wing}):
        parts[f"modules {wing}"] = module_table([m for m in modules.values() if m.inside_a_wing and m.wing == wing])
    parts["modules above and below"] = module_table([m for m in modules.values() if not m.inside_a_wing])
    return parts


def read_modules(root: pathlib.Path) -> dict[str, Module]:
    """Every module of the project by name; packages by their own."""
    sources = {}
    for package, folder in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            inner = path.relative_to(root / folder).with_suffix("").parts
            sources[".".join((package, *(part for part in inner if part != "__init__")))] = path
    modules = {}
    for name, path in sources.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = frozenset(target for target, _, _ in imported(tree, sources) if target != name)
        modules[name] = Module(name, path.relative_to(root), tree, text.count("\n"), imports)
    return modules


def imported(tree: ast.AST, names: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """What a module imports of the project: the module, what of it ("" for itself), and its name here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                here = alias.asname or alias.name
                yield (inner, "", here) if inner in names else (node.module or "", alias.name, here)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names if alias.name in names)


def read_floors(root: pathlib.Path) -> dict[str, int]:
    """The floor of each wing, 0 at the top, as the contract of import-linter has them."""
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    floors = {}
    for floor, layer in enumerate(layers):
        floors |= {wing.strip().rpartition(".")[2]: floor for wing in re.split(r"[|:]", layer)}
    return floors


def arrows_between(modules: Mapping[str, Module]) -> dict[tuple[str, str], int]:
    """How many imports of modules lead from one wing to another, for each pair of wings.

    The package itself gives the names of `api`, so importing it is importing that.
    """
    counts: dict[tuple[str, str], int] = {}
    for module in modules.values():
        for target in module.imports if module.wing not in ("dfmpc_onnx", "__main__") else ():
            wing = modules[target].wing.replace("dfmpc_onnx", "api")
            if wing != module.wing:
                counts[module.wing, wing] = counts.get((module.wing, wing), 0) + 1
    return counts


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows without those that a longer way replaces; of arrows without a circle."""

    def reaches(start: str, end: str) -> bool:
        return any(b == end or reaches(b, end) for a, b in arrows if a == start)

    return {(a, b) for a, b in arrows if not any(reaches(c, b) for x, c in arrows if x == a and c != b)}


def wing_diagram(modules: Mapping[str, Module], floors: Mapping[str, int]) -> str:
    """Wings and what they import; dotted where an import leads upward or sideways, which the contract forbids."""
    arrows = set(arrows_between(modules))
    down = {(a, b) for a, b in arrows if floors.get(a, -1) < floors.get(b, 99)}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"    {a} --> {b}" for a, b in sorted(reduced(down), key=lambda pair: (floors.get(pair[0], 0), pair))]
    lines += [f"    {a} -.-> {b}" for a, b in sorted(arrows - down)]
    return "\n".join([*lines, "```", ""])


def floor_list(floors: Mapping[str, int]) -> str:
    """The layers of the import contract, from the top, one line each."""
    grouped = itertools.groupby(sorted(floors, key=lambda wing: floors[wing]), key=lambda wing: floors[wing])
    return "".join(
        f"{number}. {', '.join(f'`{wing}`' for wing in wings)}\n" for number, (_, wings) in enumerate(grouped, 1)
    )


def module_table(modules: Sequence[Module]) -> str:
    """One line a module, with what its docstring begins with."""
    lines = ["| module | what it is |", "|---|---|"]
    for module in modules:
        if module.path.name != "__init__.py":
            lines.append(f"| [{module.path.stem}](../{module.path.as_posix()}) | {cell(module.summary)} |")
    return "\n".join([*lines, ""])


def path_diagram(modules: Mapping[str, Module]) -> str:
    """What `quantize` calls, in the order of its source, as a diagram of modules and as a table of calls."""
    phase, steps = PHASES[""], []
    for target, call in calls_of(modules[START], ENTRY, modules):
        phase = PHASES.get(call, phase)
        steps.append((phase, target, call))
        phase = LAST if call == "PassManager" else phase
    lines, boxes = ["```mermaid", "flowchart TD"], 0
    for phase, within in itertools.groupby(steps, lambda step: step[0]):
        lines.append(f'    subgraph p{boxes}["{phase}"]')
        for target, calls in itertools.groupby(within, lambda step: step[1]):
            names = ", ".join(dict.fromkeys(call for _, _, call in calls))
            lines.append(f'        s{boxes}["<b>{short(target)}</b><br/>{names}"]')
            boxes += 1
        lines.append("    end")
    lines.append("    " + " --> ".join(f"s{box}" for box in range(boxes)))
    lines += ["```", "", "| | module | call | what it does |", "|---|---|---|---|"]
    number = itertools.count(1)
    for phase, within in itertools.groupby(steps, lambda step: step[0]):
        lines.append(f"| | | | **{phase}** |")
        for _, target, call in within:
            said = first_line(definition(modules[target].tree, call))
            lines.append(f"| {next(number)} | {short(target)} | `{call}` | {cell(said)} |")
    return "\n".join([*lines, ""])


def short(name: str) -> str:
    return name.removeprefix("dfmpc_onnx.")


def calls_of(
    module: Module, name: str, modules: Mapping[str, Module], seen: frozenset[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """The project's functions and classes that a function calls, in the order in which they stand; each once.

    Functions of its own module, and of those that it is cut into, are followed; methods and what runs after an error
    are not.
    """
    known = {here: (target, what) for target, what, here in imported(module.tree, modules)}
    done: set[tuple[str, str]] = set()
    for called in ordered(definition(module.tree, name)):
        head, *rest = called.split(".")
        if isinstance(definition(module.tree, head), Function) and head not in seen and head != name:
            found = list(calls_of(module, head, modules, seen | {name, head}))
        elif head in known and known[head][0] in FOLLOWED:
            target, what = known[head]
            found = list(calls_of(modules[target], what, modules, seen | {name, head}))
        elif head in known:
            target, what = known[head]
            found = [(target, ".".join([what, *rest] if what else rest))]
        else:
            continue
        fresh = [step for step in found if step not in done and step[0] != "dfmpc_onnx.errors"]
        done.update(fresh)
        yield from fresh


def ordered(function: Function | ast.ClassDef | None) -> Iterator[str]:
    """The dotted names that are called in a body, arguments before the call; nothing of error handling.

    A function that is defined within stands where it is first named.
    """
    if not isinstance(function, Function):
        return
    inner = {node.name: node for node in ast.walk(function) if isinstance(node, Function) and node is not function}

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Raise | ast.ExceptHandler | Function):
            return
        if isinstance(node, ast.Name) and (within := inner.pop(node.id, None)):
            yield from itertools.chain.from_iterable(map(visit, within.body))
        yield from itertools.chain.from_iterable(map(visit, ast.iter_child_nodes(node)))
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            yield name

    yield from itertools.chain.from_iterable(map(visit, function.body))


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


def definition(tree: ast.Module, name: str) -> Function | ast.ClassDef | None:
    """A function or class at the top of a module; of ``Class.method`` the class."""
    head = name.partition(".")[0]
    return next((n for n in tree.body if isinstance(n, Function | ast.ClassDef) and n.name == head), None)


def recipe_passes(root: pathlib.Path, modules: Mapping[str, Module]) -> str:
    """The passes of the default recipe, in order."""
    named = {name: module for module in modules.values() for name in pass_names(module)}
    recipe = tomllib.loads((root / RECIPE).read_text(encoding="utf-8"))
    used = [step["use"] for step in recipe["passes"]]
    lines = [f"{i}. `{name}`: {named[name].summary if name in named else ''}" for i, name in enumerate(used, 1)]
    return "\n".join([*lines, ""])


def pass_names(module: Module) -> Iterator[str]:
    """What the passes of a module are called in recipes."""
    for kind in module.tree.body if module.wing == "dfmpc_passes" else ():
        for line in kind.body if isinstance(kind, ast.ClassDef) else ():
            match line:
                case ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str(name))):
                    yield name


def figures(modules: Mapping[str, Module]) -> str:
    """Sizes and arrows, as a table."""
    arrows = arrows_between(modules)
    lengths = [
        (f"{short(module.name)}.{function.name}", (function.end_lineno or 0) - function.lineno + 1)
        for module in modules.values()
        for function in module.functions
    ]
    longest = max(modules.values(), key=lambda module: module.lines)
    over = sorted((pair for pair in lengths if pair[1] > LONG), key=lambda pair: -pair[1])
    private = sorted(
        f"{target}.{what}"
        for module in modules.values()
        for target, what, _ in imported(module.tree, modules)
        if what.startswith("_") and not what.startswith("__")
    )
    rows = {
        "modules": str(sum(module.path.name != "__init__.py" for module in modules.values())),
        "imports from wing to wing": f"{sum(arrows.values())}, over {len(arrows)} pairs of wings",
        "longest module": f"{longest.name}, {longest.lines} lines",
        "functions": f"{len(lengths)}, median {statistics.median(length for _, length in lengths):g} lines",
        f"functions over {LONG} lines": ", ".join(f"{name} ({length})" for name, length in over) or "none",
        "private names imported across modules": ", ".join(private) or "none",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows.items()), ""])


def first_line(node: ast.Module | Function | ast.ClassDef | None) -> str:
    """The first line of a docstring, or "" where there is none."""
    text = ast.get_docstring(node) if node is not None else None
    return text.splitlines()[0] if text else ""


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
