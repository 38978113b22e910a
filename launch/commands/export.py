"""`privatenet export`: a trained network as files that other runtimes run, in one part or two."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from privatenet.audit.export.settings import ExportConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE
from privatenet.launch.commands.subject import data_config, load_source


def main(argv: Sequence[str]) -> int:
    """Export the network that `argv` names; returns the exit code."""
    values = parse_arguments(parser(), list(argv)).as_dict()
    source = load_source(Path(values["checkpoint"]))
    config = ExportConfig(**{name: values[name] for name in ExportConfig.__dataclass_fields__})
    # Torch's exporters take seconds to import: not before the settings are known to be good.
    from privatenet.audit.export.export import REPORT, export
    from privatenet.audit.export.report import print_export, write_readme
    from privatenet.distributed.tracking.packaged import save_served

    faces = Faces(data_config(source, values["shards"]), ALONE)
    folder = Path(values["out"])
    exported = export(config, source, faces, folder, lambda what: print(f"privatenet: {what}", file=sys.stderr))
    write_readme(exported, folder)
    if exported.deployment == "whole":
        save_served(folder / "network.onnx", folder / REPORT, exported.classes, folder / "mlflow")
    print_export(exported)
    print(f"files    {folder}\nreport   {folder / 'README.md'}")
    return 0


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet export",
        description="Write a trained network as ONNX, torch.export and safetensors: whole, or cut in two by how it is "
        "deployed. Each ONNX file is run beside PyTorch on real pictures, and refused where they differ.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    built.add_argument("checkpoint", help="Folder of a target or private network, such as runs/demo/private.")
    built.add_argument("--config", action="config", help="YAML file of settings; later flags override it.")
    built.add_argument("--out", required=True, type=str, help="New folder for the files.")
    built.add_argument(
        "--shards", default=Uri(), type=Uri, help="Folder or URL of the data set; empty: where it was trained."
    )
    built.add_class_arguments(ExportConfig, as_group=False)
    return built
