"""A classifier cut into stages by tracing it: at places where all that follows depends on the picture by one map only.

Modules run as they are, with what they do in training; only the network's own forward, sequences and, where that is not
enough, modules that hold most of the network are traced through.
"""

import inspect
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from privatenet.models.errors import ModelError
from privatenet.models.layouts import Layout, from_map, side_of, to_map
from privatenet.models.zoo import Classifier

LEVELS = 4
_BATCH = 2


class Stage(nn.Module):
    """A part of a traced network: one tensor to one tensor.

    Unlike an `fx.GraphModule` it is copied as any module is, with what was replaced in it (`freeze`).
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        names = _short_names([node.target for node in graph.nodes if node.op in ("call_module", "get_attr")])
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                _share(network, node.target, self, names[node.target])
                node.target = names[node.target]
        self._compute = type(fx.GraphModule(self, graph)).forward

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self._compute(self, features)
        return result


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
            reasons.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    raise ModelError(f"backbone {name!r} cannot be cut into stages: {'; '.join(dict.fromkeys(reasons))}")


def _cut(classifier: Classifier, opened: AbstractSet[nn.Module]) -> dict[str, nn.Module]:
    network = classifier.network
    training = _trace(classifier, opened, training=True)
    graph = _trace(classifier, opened, training=False)
    network.train()
    cuts = _cuts(network, graph, _shapes(network, graph, classifier.size))
    stem, taps = _choose(network, graph, cuts)
    ends = [stem, *taps]
    names = ("stem", *(f"layer{level + 1}" for level in range(LEVELS)), "last")
    for ours, theirs in zip(graph.nodes, training.nodes, strict=False):
        if ours.format_node() != theirs.format_node():
            raise ModelError(f"what {ours} does in training is not known to any of its modules")
        if ours is taps[-1].node:
            break
    start = Cut(next(iter(graph.nodes)), (3, classifier.size, classifier.size), "map", block=False)
    stages: dict[str, nn.Module] = {}
    for stage, (begin, end) in zip(names, pairwise([start, *ends]), strict=True):
        # What the stem hands over is no tap, and stays as it is.
        segment = _segment(graph, begin.node, end.node, None if begin is stem else begin, None if end is stem else end)
        stages[stage] = nn.Identity() if begin.node is end.node else Stage(network, segment)
    _check_nothing_is_shared(stages)
    output = next(node for node in graph.nodes if node.op == "output")
    return {**stages, "rest": Stage(network, _segment(graph, taps[-1].node, output, taps[-1], None))}


class _Tracer(fx.Tracer):
    """Looks into `opened` modules only."""

    def __init__(self, classifier: Classifier, opened: AbstractSet[nn.Module]) -> None:
        super().__init__(autowrap_functions=classifier.opaque, param_shapes_constant=True)
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.opened


def _trace(classifier: Classifier, opened: AbstractSet[nn.Module], training: bool) -> fx.Graph:
    network = classifier.network.train(training)
    _, *others = inspect.signature(network.forward).parameters.values()
    defaults = {each.name: each.default for each in others if each.default is not each.empty}
    return _Tracer(classifier, opened).trace(network, concrete_args=defaults)


class _Recorder(nn.Module):
    """All values of a graph, by node."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self.network = network
        self.graph = graph

    def forward(self, pictures: Tensor) -> dict[fx.Node, Any]:
        interpreter = fx.Interpreter(self.network, garbage_collect_values=False, graph=self.graph)
        interpreter.run(pictures)
        return dict(interpreter.env)


def _shapes(network: nn.Module, graph: fx.Graph, size: int) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of one picture's values at every node that has one tensor for a batch; on the meta device."""
    recorder = _Recorder(network, graph)
    values = on_meta(recorder, torch.empty(_BATCH, 3, size, size, device="meta"))
    return {
        node: tuple(value.shape[1:])
        for node, value in values.items()
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == _BATCH
    }


def on_meta(module: nn.Module, *inputs: Any) -> Any:
    """What `module` gives in evaluation mode for `inputs` on the meta device: shapes, without arithmetic."""
    modes = {each: each.training for each in module.modules()}
    state = {name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    module.eval()
    try:
        with torch.no_grad():
            return functional_call(module, state, inputs)
    finally:
        for each, training in modes.items():
            each.training = training


def _cuts(network: nn.Module, graph: fx.Graph, shapes: dict[fx.Node, tuple[int, ...]]) -> list[Cut]:
    """All cuts of the graph, in order."""
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    dependent = _dependent(graph)
    cuts: list[Cut] = []
    live: set[fx.Node] = set()
    for index, node in enumerate(nodes[:-1]):
        live = {each for each in {*live, node} & dependent if any(position[user] > index for user in each.users)}
        if live == {node} and node in shapes:
            module = network.get_submodule(node.target) if node.op == "call_module" else None
            block = module is not None and any(module.children()) and nodes[0] not in node.all_input_nodes
            cuts.append(Cut(node, shapes[node], _layout(shapes[node]), block))
    return cuts


def _layout(shape: tuple[int, ...]) -> Layout | None:
    """How a square map lies in values of this shape; None where they are no map."""
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3 or shape[1] not in (shape[0], shape[2]):
        return None
    return "map" if shape[1] == shape[2] else "channels last"


def _choose(network: nn.Module, graph: fx.Graph, cuts: Sequence[Cut]) -> tuple[Cut, list[Cut]]:
    """Where the stem ends, and the taps layer1 to layer4 and backbone."""
    features = [cut for cut in cuts[1:] if cut.layout]
    head = next(node for node in reversed(graph.nodes) if node.op == "call_module").target.partition(".")[0]
    for index, cut in enumerate(features):
        if cut.node.op == "call_module":
            inside = cut.node.target.partition(".")[0] == head
            pooled = isinstance(network.get_submodule(cut.node.target), nn.AdaptiveAvgPool2d)
        if cut.node.op == "call_module" and (inside or pooled) or cut.layout != "tokens" and cut.side == 1:
            features = features[:index]
            break
    levels = [
        list(level) for _, level in groupby((cut for cut in features if cut.block or cut.layout != "tokens"), _side)
    ]
    runs = [[cut for cut in level if cut.block] or level for level in levels][-LEVELS:]
    while runs and len(runs) < LEVELS and len(longest := max(runs, key=len)) > 1:
        index, half = runs.index(longest), len(longest) // 2
        runs[index : index + 1] = [longest[:half], longest[half:]]
    if len(runs) < LEVELS:
        raise ModelError(f"all that follows depends on one map only at {len(runs)} places; needed are {LEVELS}")
    stem = cuts[cuts.index(runs[0][0]) - 1]
    return stem, [*(run[-1] for run in runs), features[-1]]


def _side(cut: Cut) -> int:
    return cut.side


def _dependent(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that depend on the picture, it included."""
    nodes = list(graph.nodes)
    dependent = {nodes[0]}
    for node in nodes:
        if not dependent.isdisjoint(node.all_input_nodes):
            dependent.add(node)
    return dependent


def _segment(graph: fx.Graph, start: fx.Node, stop: fx.Node, inlet: Cut | None, outlet: Cut | None) -> fx.Graph:
    """What the graph computes from `start` to `stop`, between the maps of these cuts, where they are given."""
    nodes, dependent = list(graph.nodes), _dependent(graph)
    segment = fx.Graph()
    features = segment.placeholder("features")
    if inlet and inlet.layout != "map":
        features = segment.call_function(from_map, (features, inlet.layout, inlet.shape[1]))
    copies = {start: features}

    def copied(node: fx.Node) -> fx.Node:
        """The copy of a node; of what does not depend on the picture each segment has its own."""
        if node not in copies:
            copies[node] = segment.node_copy(node, copied)
        return copies[node]

    for node in nodes[nodes.index(start) + 1 : nodes.index(stop) + 1]:
        if node in dependent:
            copied(node)
    if stop.op != "output":
        result = copies[stop]
        if outlet and outlet.layout != "map":
            result = segment.call_function(to_map, (result, outlet.layout))
        segment.output(result)
    return segment


def _check_nothing_is_shared(stages: dict[str, nn.Module]) -> None:
    owners: dict[int, str] = {}
    for stage, module in stages.items():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if owners.setdefault(id(tensor), stage) != stage:
                raise ModelError(f"{name} has a part in several stages")


def _short_names(targets: Sequence[str]) -> dict[str, str]:
    """Names in a stage: without the first component, where all have it in common."""
    common = {target.partition(".")[0] for target in targets}
    short = len(common) == 1 and all("." in target for target in targets)
    return {target: target.partition(".")[2] if short else target for target in targets}


def _share(network: nn.Module, target: str, stage: nn.Module, name: str) -> None:
    """Give `stage` the module, parameter or buffer `target` of `network`, under `name`."""
    path, _, leaf = target.rpartition(".")
    holder = network.get_submodule(path)
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(stage, parent):
            stage.add_module(parent, nn.Module())
        stage = stage.get_submodule(parent)
    part = getattr(holder, leaf)
    if isinstance(part, nn.Module):
        stage.add_module(last, part)
    elif isinstance(part, nn.Parameter):
        stage.register_parameter(last, part)
    elif not hasattr(stage, last):
        stage.register_buffer(last, part, persistent=leaf not in holder._non_persistent_buffers_set)


def _size(module: nn.Module) -> int:
    """Numbers in its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
