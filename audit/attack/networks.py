"""The networks of an audit: the one that it is about, those to compare it with, and what attackers start from.

`unprotected` is the network that a private one started from, `random` one of the same architecture, never trained.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from privatenet.audit.attack.fleet import Donor
from privatenet.audit.settings import FACES, FRESH, AuditConfig
from privatenet.distributed import agree, checkpoint
from privatenet.distributed.chance import seeded
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.trained import load_adversaries, load_network
from privatenet.models.adversary import ImageAdversary
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network, NetworkSpec, build_network
from privatenet.models.weights import tensors_sha256


@dataclass(frozen=True)
class AuditedNetwork:
    """A network to attack, in the role audited, unprotected or random; `sha256` is that of its weights.

    `checkpoint` is None for one that was never trained; `donors`, by kind of faces and attribute, are what fine-tuning
    starts from.
    """

    role: str
    network: Network
    sha256: str
    checkpoint: Checkpoint | None
    donors: dict[tuple[str, str], Donor]


def audited_networks(config: AuditConfig, source: Checkpoint, ranks: Ranks) -> list[AuditedNetwork]:
    """The network of `source`, then the references of `config` that there are; all ranks call it together."""
    checkpoints = agree.first(ranks, lambda: _checkpoints(config, source))
    networks = []
    for role, (trained, known) in checkpoints.items():
        network = load_network(trained, ranks)
        donors = _donors(network, trained.hash, known, config.attributes, ranks)
        networks.append(AuditedNetwork(role, network, trained.hash, trained, donors))
    if "random" in config.references:
        network = _random_network(NetworkSpec(**source.state["spec"]))
        sha256 = f"random-{tensors_sha256(network, repr(network.spec))}"
        donors = _donors(network, sha256, None, config.attributes, ranks)
        networks.append(AuditedNetwork("random", network, sha256, None, donors))
    return networks


def known_adversaries(source: Checkpoint) -> Checkpoint | None:
    """The adversaries that were trained with this network, or else on the one that it started from."""
    if source.state["stage"] != "private":
        return adversaries_on(source, "known")
    if (known := _origin(source, source.state["identity"].get("adversaries", ""), "adversaries")) is not None:
        return known
    start = _origin(source, source.state["identity"]["network"], "start")
    return adversaries_on(start, "known") if start else None


def adversaries_on(source: Checkpoint, stage_folder: str) -> Checkpoint | None:
    """The adversaries in that folder of the run, if it is this network that they were trained on."""
    folder = source.folder.parent.parent / stage_folder / "final"
    if not (folder / "state.json").is_file():
        return None
    adversaries = checkpoint.load(folder)
    return adversaries if adversaries.state["identity"]["network"] == source.hash else None


def _donors(
    network: Network, sha256: str, known: Checkpoint | None, attributes: list[str], ranks: Ranks
) -> dict[tuple[str, str], Donor]:
    """For every kind of faces and attribute what fine-tuning starts from: the network itself; on fresh faces, which it
    has not learnt from, the known image adversary, where there is one."""
    network = one_by_one(network).cpu()
    donors = dict.fromkeys(product(FACES, attributes), Donor(network, sha256))
    if known:
        pairs = {f"image-{attribute}": attribute for attribute in attributes}
        names = [name for name in pairs if name in known.state["identity"]["pairs"]]
        for name, adversary in load_adversaries(known, network, names, ranks).items():
            assert isinstance(adversary, ImageAdversary)
            donors[FRESH, pairs[name]] = Donor(one_by_one(adversary.network).cpu(), known.hash, "the image adversary")
    return donors


def _checkpoints(config: AuditConfig, source: Checkpoint) -> dict[str, tuple[Checkpoint, Checkpoint | None]]:
    """The trained networks by their role, each with its known adversaries."""
    networks = {"audited": source}
    if "unprotected" in config.references and source.state["stage"] == "private":
        start: Checkpoint | None = source
        while start and start.state["stage"] == "private":  # one private network may start from another
            start = _origin(start, start.state["identity"]["network"], "start")
        networks |= {"unprotected": start} if start else {}
    return {role: (network, known_adversaries(network)) for role, network in networks.items()}


def _origin(source: Checkpoint, sha256: str, key: str) -> Checkpoint | None:
    """What a private network was made from: where its settings say under `protect`, if that still has that hash."""
    name = source.state["config"]["protect"][key]
    for folder in (source.folder.parent.parent / name / "final", Path(name)):
        if (folder / "state.json").is_file() and (origin := checkpoint.load(folder)).hash == sha256:
            return origin
    return None


def _random_network(spec: NetworkSpec) -> Network:
    with seeded(0):
        return build_network(spec)
