"""A classifier cut into stages: at places where all that follows depends on the picture by one map only.

Only the network's own forward, sequences and, where that is not enough, modules that hold most of it are looked into.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn

from privatenet.models.errors import ModelError, reason
from privatenet.models.layouts import Layout, from_map, side_of, to_map
from privatenet.models.tracing import BATCH, Stage, dependent_nodes, trace, values_of
from privatenet.models.zoo import Classifier

LEVELS = 4


@dataclass(frozen=True)
class Cut:
    """A node of the graph after which nothing else that depends on the picture is needed, and its map, if it is one.

    `shape` is that of one picture's features; a `block` is a module that has parts, and does not look at the picture.
    """

    node: fx.Node
    shape: tuple[int, ...]
    layout: Layout | None
    block: bool

    @property
    def side(self) -> int:
        """Height and width of the map."""
        assert self.layout
        return side_of(self.shape, self.layout)


def cut_network(name: str, classifier: Classifier) -> dict[str, nn.Module]:
    """The stages stem, layer1 to layer4 and last, from the picture to the last map, and `rest`, from there to logits.

    layer1 to layer4 end with the last block, or where there is none with the last layer, at each of the last four
    resolutions; where there are fewer, as in a ViT, the longest run of blocks is halved until there are four. `last` is
    what comes then and before pooling. Modules are the network's own. Raises `ModelError` where there is no such cut.
    """
    network = classifier.network
    sequences = {each for each in network.modules() if type(each).forward is nn.Sequential.forward}
    most = {each for each in network.modules() if any(each.children()) and 2 * _size(each) > _size(network)}
    reasons = []
    for opened in ({network} | sequences, most | sequences):
        try:
            return _cut(classifier, opened)
        except ModelError as error:
            reasons.append(str(error))
        except Exception as error:  # tracing runs the code of any network, which raises what it likes
            reasons.append(reason(error))
    raise ModelError(f"backbone {name!r} cannot be cut into stages: {'; '.join(dict.fromkeys(reasons))}")


def _cut(classifier: Classifier, opened: AbstractSet[nn.Module]) -> dict[str, nn.Module]:
    network = classifier.network
    training = trace(classifier, opened, training=True)
    graph = trace(classifier, opened, training=False)
    network.train()
    for node in graph.nodes:
        if any(isinstance(each, torch.device) for each in (*node.args, *node.kwargs.values())):
            raise ModelError(f"{node} is tied to the device that the network was built on")
    values = values_of(network, graph, classifier.size)
    sizes = {node: value for node, value in values.items() if classifier.fixed and _is_size(value)}
    cuts = _cuts(network, graph, values, dependent_nodes(graph, sizes.keys()))
    stem, taps = _choose(network, graph, cuts)
    ends = [stem, *taps]
    names = ("stem", *(f"layer{level + 1}" for level in range(LEVELS)), "last")
    _check_training_is_the_same(graph, training, taps[-1].node)
    start = Cut(next(iter(graph.nodes)), (3, classifier.size, classifier.size), "map", block=False)
    stages: dict[str, nn.Module] = {}
    for stage, (begin, end) in zip(names, pairwise([start, *ends]), strict=True):
        # What the stem hands over is no tap, and stays as it is.
        inlet, outlet = (None if cut is stem else cut for cut in (begin, end))
        segment = _segment(graph, sizes, begin.node, end.node, inlet, outlet)
        stages[stage] = nn.Identity() if begin.node is end.node else Stage(network, segment)
    _check_nothing_is_shared(stages)
    output = next(node for node in graph.nodes if node.op == "output")
    return {**stages, "rest": Stage(network, _segment(graph, sizes, taps[-1].node, output, taps[-1], None))}


def _cuts(
    network: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any], dependent: AbstractSet[fx.Node]
) -> list[Cut]:
    """All cuts of the graph, in order."""
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    cuts: list[Cut] = []
    live: set[fx.Node] = set()
    for index, node in enumerate(nodes[:-1]):
        live = {each for each in {*live, node} & dependent if any(position[user] > index for user in each.users)}
        value = values[node]
        if live == {node} and isinstance(value, Tensor) and value.shape[:1] == (BATCH,):
            module = network.get_submodule(node.target) if node.op == "call_module" else None
            block = module is not None and any(module.children()) and nodes[0] not in node.all_input_nodes
            cuts.append(Cut(node, value.shape[1:], _layout(value.shape[1:]), block))
    if any(cut.layout == "channels last" for cut in cuts):  # then also where they are as many as the map has rows
        return [replace(cut, layout="channels last") if _is_cube(cut.shape) else cut for cut in cuts]
    return cuts


def _is_cube(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and len(set(shape)) == 1


def _is_size(value: Any) -> bool:
    """Whether `value` is a number, or several, that pictures of one size have in common."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and value % BATCH != 0


def _layout(shape: tuple[int, ...]) -> Layout | None:
    """How a square map lies in values of this shape; None where they are no map."""
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3 or shape[1] not in (shape[0], shape[2]):
        return None
    return "map" if shape[1] == shape[2] else "channels last"


def _choose(network: nn.Module, graph: fx.Graph, cuts: Sequence[Cut]) -> tuple[Cut, list[Cut]]:
    """Where the stem ends, and the taps layer1 to layer4 and backbone."""
    head = next(node for node in reversed(graph.nodes) if node.op == "call_module").target.partition(".")[0]
    maps = [cut for cut in cuts[1:] if cut.layout]
    maps = list(takewhile(lambda cut: not _pools(network, head, cut), maps))
    # Tokens that no block gave are pictures on their way to the first one.
    sited = [cut for cut in maps if cut.block or cut.layout != "tokens"]
    levels = [list(level) for _, level in groupby(sited, lambda cut: cut.side)]
    runs = [[cut for cut in level if cut.block] or level for level in levels][-LEVELS:]
    while runs and len(runs) < LEVELS and len(longest := max(runs, key=len)) > 1:
        index, half = runs.index(longest), len(longest) // 2
        runs[index : index + 1] = [longest[:half], longest[half:]]
    if len(runs) < LEVELS:
        raise ModelError(f"all that follows depends on one map only at {len(runs)} places; needed are {LEVELS}")
    stem = cuts[cuts.index(runs[0][0]) - 1]
    return stem, [*(run[-1] for run in runs), maps[-1]]


def _pools(network: nn.Module, head: str, cut: Cut) -> bool:
    """Whether `cut` is of the classifier `head`, or of pooling before it."""
    if cut.node.op == "call_module":
        target = str(cut.node.target)
        if target.partition(".")[0] == head or isinstance(network.get_submodule(target), nn.AdaptiveAvgPool2d):
            return True
    return cut.layout != "tokens" and cut.side == 1


def _segment(
    graph: fx.Graph, sizes: dict[fx.Node, Any], start: fx.Node, stop: fx.Node, inlet: Cut | None, outlet: Cut | None
) -> fx.Graph:
    """What the graph computes from `start` to `stop`, between the maps of these cuts, where they are given.

    `sizes`, of a network that takes pictures of one size, are constants where they were read of what is before `start`.
    """
    nodes, dependent = list(graph.nodes), dependent_nodes(graph)
    inside = nodes[nodes.index(start) + 1 : nodes.index(stop) + 1]
    segment = fx.Graph()
    features = segment.placeholder("features")
    if inlet and inlet.layout != "map":
        features = segment.call_function(from_map, (features, inlet.layout, inlet.shape[1]))
    copies: dict[fx.Node, Any] = {start: features}

    def copied(node: fx.Node) -> Any:
        """The copy of a node; of what does not depend on the picture each segment has its own."""
        if node not in copies:
            outside = node in sizes and node in dependent and node not in inside
            copies[node] = sizes[node] if outside else segment.node_copy(node, copied)
        return copies[node]

    for node in inside:
        if node in dependent:
            copied(node)
    if stop.op != "output":
        result = copies[stop]
        if outlet and outlet.layout != "map":
            result = segment.call_function(to_map, (result, outlet.layout))
        segment.output(result)
    return segment


def _check_training_is_the_same(graph: fx.Graph, training: fx.Graph, last: fx.Node) -> None:
    """Raise `ModelError` unless up to `last` the modules alone know whether it is training."""
    for node, in_training in zip(graph.nodes, training.nodes, strict=False):
        if node.format_node() != in_training.format_node():
            raise ModelError(f"what {node} does in training is not known to any of its modules")
        if node is last:
            return


def _check_nothing_is_shared(stages: dict[str, nn.Module]) -> None:
    owners: dict[int, str] = {}
    for stage, module in stages.items():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if owners.setdefault(id(tensor), stage) != stage:
                raise ModelError(f"{name} has a part in several stages")


def _size(module: nn.Module) -> int:
    """Numbers in its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
