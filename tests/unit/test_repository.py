"""The house rules: imports point one way, every outside library has one owner, the wheel holds what the tree holds."""

import ast
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ROOT, tracked_files

ALLOWED = {
    "data_shards": {"data_shards"},
    "models": {"models"},
    "distributed": {"distributed", "models", "data_shards"},
    "audit": {"audit", "distributed", "models", "data_shards"},
    "tune": {"tune", "audit", "distributed", "models", "data_shards"},
    "launch": {"launch", "tune", "audit", "distributed", "models", "data_shards"},
}
OWNERS = {
    "deepspeed": {"distributed/engine.py"},
    "mlflow": {
        "distributed/tracking/store.py",
        "distributed/tracking/registry.py",
        "distributed/tracking/packaged.py",
        "distributed/tracking/face_model.py",
    },
    "webdataset": {"data_shards/", "launch/bench/loader.py"},
    "facenet_pytorch": {"data_shards/photographs/detect.py"},
    "av": {"data_shards/photographs/video.py"},
    "sklearn": {"audit/"},
    "matplotlib": {"audit/report/", "tune/compare/charts.py"},
    "ray": {"tune/"},
    "optuna": {"tune/"},
    "plotly": {"tune/compare/"},
    "onnx": {"models/onnx_files.py"},
    "onnxruntime": {"models/onnx_files.py", "distributed/tracking/face_model.py"},
    "simplejpeg": {"data_shards/shards/picture.py", "launch/bench/loader.py"},
    "timm": {"models/zoo.py"},
}

pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="needs the source tree")


def sources() -> list[Path]:
    return sorted(path for room in ALLOWED for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, also for types; `from a import b` gives `a` and `a.b`."""
    yield from _imports(ast.parse(path.read_text()), types=True)


def _imports(node: ast.AST, types: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, ast.unparse(node)
        yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node) if types or not for_types else ():
        yield from _imports(child, types)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources():
        room = path.relative_to(ROOT).parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "privatenet" and parts[1] not in ALLOWED[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """Imports inside of functions count as well: they only hide a circle."""
    modules = {"privatenet." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources()}
    graph = {
        name: {other for other in _imports(ast.parse(path.read_text()), types=False) if other in modules}
        for name, path in modules.items()
    }
    assert sum(map(len, graph.values())) > len(modules)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_outside_library_has_one_owner() -> None:
    wrong = []
    for path in sources():
        where = path.relative_to(ROOT).as_posix()
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            if owners and not where.startswith(tuple(owners)):
                wrong.append(f"{where} imports {name}")
    assert not wrong


def test_what_a_launcher_says_of_ranks_is_read_in_one_place() -> None:
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert readers == {"distributed/place.py"}


def test_ranks_wait_for_each_other_only_where_they_agree() -> None:
    bare = ("dist.barrier", "all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list")
    users = {p.relative_to(ROOT).as_posix() for p in sources() if any(call in p.read_text() for call in bare)}
    assert users == {"distributed/agree.py"}


def test_no_room_has_an_init_file_that_would_shadow_another_package() -> None:
    """`import audit` in the source tree is nobody else's; `distributed` or `tune` might be."""
    files = {path.relative_to(ROOT).as_posix() for room in ALLOWED for path in (ROOT / room).rglob("__init__.py")}
    assert all(file.startswith(("audit/", "models/")) for file in files)


def test_the_wheel_holds_every_file_of_the_tree(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("privatenet/")}
    assert packed == {f"privatenet/{path}" for path in tracked_files() if path.split("/")[0] in ALLOWED}
