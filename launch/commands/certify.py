"""`privatenet certify`: bound what any adversary whatever reads of what a trained network sends."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from pydantic import TypeAdapter

from privatenet.audit.settings import CertifyConfig
from privatenet.data_shards import records
from privatenet.distributed import agree
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.held import held
from privatenet.distributed.place import launched
from privatenet.distributed.ranks import join, leave
from privatenet.launch.commands.audit import network_parser
from privatenet.launch.commands.subject import data_config, load_source
from privatenet.launch.launcher import launch, run_on_ranks

CERTIFICATE = "certificate.json"


def main(argv: Sequence[str]) -> int:
    """Certify what `argv` names, on the ranks that a launcher made, or makes here; returns the exit code."""
    return run_on_ranks(_main, argv)


def parser() -> ArgumentParser:
    built = network_parser(
        "certify",
        "Bound how often any adversary, whatever it knows and computes, reads a private attribute from "
        "what a network sends: a few noisy numbers, a code, or its predicted label. It rests on the people of the test "
        "split, who have to be used for nothing else: whoever chooses among networks by their certificates needs "
        "other people for the chosen one.",
        "Folder or URL of a data set whose test split is used: other people than the network has learnt from, of the "
        "same population, with the same classes of the private attributes. Empty: the one that it was trained on.",
    )
    built.add_class_arguments(CertifyConfig, as_group=False)
    help_text = f"Folder of {CERTIFICATE}; empty: certify-STAGE in the run's."
    built.add_argument("--output", default="", type=str, help=help_text)
    return built


def _main(argv: list[str]) -> int:
    values = parse_arguments(parser(), argv).as_dict()
    config = CertifyConfig(**{name: values[name] for name in CertifyConfig.__dataclass_fields__})
    checkpoint = Path(values["checkpoint"])
    if values["ranks"] > 1 and not launched():
        load_source(checkpoint)  # what is wrong with it is said before ranks are started
        return launch("privatenet.launch.commands.certify", argv, values["ranks"])
    ranks = join()
    # The engine takes seconds to import: not before the settings are known to be good.
    from privatenet.audit.certificate.network import Certificates, certify
    from privatenet.audit.report.certified import print_certificates

    try:
        source = agree.first(ranks, lambda: load_source(checkpoint))
        folder = Path(values["output"] or source.folder.parent.parent / f"certify-{source.folder.parent.name}")
        faces = Faces(agree.each(ranks, lambda: data_config(source, values["shards"])), ranks)
        engine = EngineConfig(**source.state["config"]["engine"])
        certificates = certify(config, source, faces, engine, ranks)
        with held(folder, ranks):
            if ranks.first:
                records.write(TypeAdapter(Certificates), certificates, folder / CERTIFICATE)
    finally:
        leave()
    if ranks.first:
        print_certificates(certificates)
        for reason in certificates.missing:
            print(f"not certified: {reason}")
        print(f"certificate  {folder / CERTIFICATE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
