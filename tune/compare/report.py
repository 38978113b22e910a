"""A comparison as it is left for a person: printed, and as front.csv, front.png, front.svg and compare.html."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from privatenet.audit.report.style import save
from privatenet.data_shards.files import replacing
from privatenet.tune.compare.candidates import Candidate
from privatenet.tune.compare.charts import describe_front, front_picture
from privatenet.tune.compare.front import Comparison, compare_networks
from privatenet.tune.compare.page import write_page
from privatenet.tune.compare.table import csv_text, print_comparison


def compare(
    candidates: Sequence[Candidate], folder: Path, leak: str = "", uri: str = "", console: Console | None = None
) -> Comparison:
    """Compare networks, print the table and write the files into `folder`, which is made where it is missing.

    `leak` is a tap-attribute pair, empty for the worst one; `uri` is the tracking store, for the page. Raises
    `ConfigError` where no network has figures.
    """
    comparison = compare_networks(candidates, leak)
    print_comparison(comparison, console)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "front.csv") as stream:
        stream.write(csv_text(comparison).encode())
    title = f"Utility against leakage, {comparison.split} split"
    save(front_picture(comparison), folder, "front", title, describe_front(comparison))
    write_page(comparison, folder / "compare.html", uri)
    return comparison
