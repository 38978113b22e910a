"""An export for people: README.md beside the files, and a table on the terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from privatenet.audit.export.export import Export, ExportedPart, ExportedVariant
from privatenet.audit.report.text import DASH, markdown, percent, with_interval
from privatenet.data_shards.files import replacing
from privatenet.models.parts import NOISE, PICTURES

WHERE = {
    "enclave": "`open` runs anywhere; what it gives goes to `trusted`, which runs where nobody can look.",
    "split": "`trusted` runs on the trusted device; only what it gives leaves it, and `open` answers from that.",
    "whole": "`network` is all of it.",
}
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def write_readme(exported: Export, folder: Path) -> None:
    """Write README.md: how to use the files, and all figures."""
    with replacing(folder / "README.md") as stream:
        stream.write("\n".join(_lines(exported)).encode())


def print_export(exported: Export) -> None:
    """Print the parts' sizes and speeds, and what each variant is worth."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place > 1 else "left")
    for variant in exported.variants:
        for part in variant.parts:
            table.add_row(*(Text(cell) for cell in _cells(variant, part)))
    console = Console()
    console.print(table)
    for line in _worth(exported):
        console.print(Text(line), soft_wrap=True)


HEADINGS = ("part", "format", "MB", "memory", "M ops", "1: ms", "p99", "32: ms", "p99")


def _cells(variant: ExportedVariant, part: ExportedPart) -> list[str]:
    memory = part.cost.bytes(BYTES[variant.variant]) / 1e6
    times = [f"{value:.2f}" for latency in part.latency for value in (latency.median_ms, latency.p99_ms)]
    size = f"{part.bytes / 1e6:.2f}"
    return [part.name, variant.variant, size, f"{memory:.2f}", f"{part.cost.multiplications / 1e6:,.1f}", *times]


def _worth(exported: Export) -> Iterator[str]:
    for variant in exported.variants:
        utility = with_interval(variant.utility, percent, " %") if variant.utility else DASH
        agreement = "" if variant.variant == "fp32" else f", as fp32 of {percent(variant.agreement)} % of the pictures"
        yield f"{variant.variant}: {exported.target} {utility} right{agreement}"
        for leak in variant.leaks:
            read = with_interval(leak.accuracy, percent, " %")
            yield f"  {leak.attribute} read of {leak.tap}: {read}, majority {percent(leak.majority)} %"


def _lines(exported: Export) -> Iterator[str]:
    yield f"# {markdown(exported.target)} network, exported for use as {exported.deployment}\n"
    yield f"{WHERE[exported.deployment]} Of the checkpoint {exported.sha256[:12]}, by privatenet {exported.package}.\n"
    yield "## Files\n"
    yield "| file | takes | gives |\n|---|---|---|"
    for part in exported.variants[0].parts:
        inputs = ", ".join(f"`{name}` {_kind(name)} [batch, {_shape(shape)}]" for name, shape in part.inputs.items())
        outputs = ", ".join(f"`{name}` float32 [batch, {_shape(shape)}]" for name, shape in part.output.items())
        yield f"| `{part.name}.onnx`, `.pt2` | {inputs} | {outputs} |"
    yield "| `model.safetensors`, `config.json` | `privatenet.models.load(folder)` reads them | |\n"
    others = ", ".join(f"`-{variant.variant}`" for variant in exported.variants[1:])
    yield f"The same ending in {others} is in that number format.\n" if others else ""
    yield "## Pictures\n"
    size, classes = exported.image_size, ", ".join(markdown(name) for name in exported.classes)
    yield (
        f"`{PICTURES}` are aligned faces as in the training data, RGB, uint8, resized to {size} x {size} by bilinear "
        "interpolation with antialiasing and rounded. They are normalised inside: less "
        f"{_numbers(exported.mean)}, divided by {_numbers(exported.std)}. Logits are in the order {classes}.\n"
    )
    if any(NOISE in part.inputs for part in exported.variants[0].parts):
        yield (
            f"`{NOISE}` is drawn anew for each picture and release: standard Gaussian numbers from a generator whose "
            "state nobody can learn, such as the operating system's. Who knows the noise reads what it hides.\n"
        )
    yield "## Figures\n"
    yield "| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS)
    for variant in exported.variants:
        for part in variant.parts:
            yield "| " + " | ".join(_cells(variant, part)) + " |"
    yield (
        "\nMemory, in MB, is of parameters and of the largest step's numbers for one picture; operations are millions "
        "of multiplications for one. Times are of batches of 1 and 32, median and 99th percentile, of onnxruntime on "
        "one thread of the machine that exported it.\n"
    )
    yield from (f"- {markdown(line.strip())}" for line in _worth(exported))
    distances = ", ".join(f"{name} {distance:.1g}" for name, distance in exported.distance.items())
    yield f"\nFurthest from PyTorch on {exported.compared_on} real pictures, in fp32: {distances}.\n"
    libraries = ", ".join(f"{name} {version}" for name, version in exported.versions.items())
    yield f"Operators of ONNX's opset {exported.opset}; written and run with {libraries}.\n"


def _kind(name: str) -> str:
    return "uint8" if name == PICTURES else "float32"


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
