"""Networks traced into graphs, what these compute for pictures of one size, and parts of them as modules of their own.

Modules that tracing does not look into run as they are, with all that they do in training.
"""

import inspect
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from privatenet.models.zoo import Classifier

BATCH = 10_007
"""A number that no size of a map or a network is a multiple of."""


def trace(classifier: Classifier, opened: AbstractSet[nn.Module], training: bool) -> fx.Graph:
    """The graph of the classifier in training or evaluation mode, in which it stays; only `opened` are looked into."""
    network = classifier.network.train(training)
    _, *others = inspect.signature(network.forward).parameters.values()
    defaults = {each.name: each.default for each in others if each.default is not each.empty}
    return _Tracer(classifier, opened).trace(network, concrete_args=defaults)


def values_of(network: nn.Module, graph: fx.Graph, size: int) -> dict[fx.Node, Any]:
    """What the graph computes at every node for `BATCH` pictures of this size; tensors are on the meta device."""
    values: dict[fx.Node, Any] = on_meta(_Recorder(network, graph), torch.empty(BATCH, 3, size, size, device="meta"))
    return values


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


def dependent_nodes(graph: fx.Graph, known: AbstractSet[fx.Node] = frozenset()) -> set[fx.Node]:
    """Nodes that depend on the picture, it included, other than by what is `known` without it."""
    nodes = list(graph.nodes)
    dependent = {nodes[0]}
    for node in nodes:
        if node not in known and not dependent.isdisjoint(node.all_input_nodes):
            dependent.add(node)
    return dependent


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


class _Tracer(fx.Tracer):
    """Looks into `opened` modules only."""

    def __init__(self, classifier: Classifier, opened: AbstractSet[nn.Module]) -> None:
        super().__init__(autowrap_functions=classifier.opaque, param_shapes_constant=True)
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.opened


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
        persistent = leaf in holder._buffers and leaf not in holder._non_persistent_buffers_set
        stage.register_buffer(last, part, persistent)
