"""Core ML packages that cannot be simulated, and inputs that do not fit: one line that says which and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from coremltools.proto import MIL_pb2, NeuralNetwork_pb2

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.interpreter import load
from edge_hadanorm.exporters.coreml.simulation.pte import folder_files, load_delegates
from runtime_tests.support.mil_programs import MODEL, exported, write_package

X = torch.ones(2, 8)
IDS = torch.tensor([1, 2, 0], dtype=torch.int32)
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> tuple[MIL_pb2.Program, Path]:
    """As protobuf, and where its weights are."""
    folder = tmp_path_factory.mktemp("program") / "x.mlpackage"
    with Function(
        {"x": mb.placeholder((2, 8)), "ids": mb.placeholder((3,), dtype=types.int32)}, opset_version=ct.target.iOS17
    ) as function:
        y = mb.linear(x=function.inputs["x"], weight=np.ones((4, 8), np.float32), name="product")
        rows = mb.gather(x=y, indices=function.inputs["ids"], axis=1, name="rows")
        function.set_outputs([mb.softmax(x=rows, axis=-1, name="shares")])
    return exported(function, folder, ct.target.iOS17), folder


@pytest.fixture
def edited(program, tmp_path) -> Callable[..., Path]:
    """edited(change) -> a package of the program after change(function, operators by name)."""

    def make(change: Callable = lambda function, operators: None) -> Path:
        own = MIL_pb2.Program()
        own.CopyFrom(program[0])
        function = own.functions["main"]
        (block,) = function.block_specializations.values()
        change(function, {op.outputs[0].name: op for op in block.operations})
        folder = tmp_path / "x.mlpackage"
        shutil.copytree(program[1], folder)
        return write_package(folder, mlProgram=own)

    return make


def tensor(operator: MIL_pb2.Operation) -> MIL_pb2.TensorType:
    return operator.outputs[0].type.tensorType


def test_the_program_runs(edited):
    (shares,) = load(edited())["main"]({"x": X, "ids": IDS}).values()
    assert torch.equal(shares, torch.full((2, 3), 1 / 3))


# Found when it is loaded.


def unknown_operator(function, operators):
    operators["rows"].type = "non_maximum_suppression"


def unknown_argument(function, operators):
    operators["rows"].inputs["stride"].CopyFrom(operators["rows"].inputs["axis"])


def missing_argument(function, operators):
    del operators["rows"].inputs["indices"]


def missing_value(function, operators):
    operators["rows"].inputs["indices"].arguments[0].name = "nowhere"


def other_float(function, operators):
    tensor(operators["shares"]).dataType = MIL_pb2.FLOAT16


def other_size(function, operators):
    """Of a stored constant."""
    tensor(operators["product_weight_0"]).dimensions[0].constant.size = 5
    operators["product_weight_0"].attributes["val"].type.tensorType.dimensions[0].constant.size = 5


def other_constant(function, operators):
    tensor(operators["product_weight_0"]).dimensions[0].constant.size = 5


def foreign_dtype(function, operators):
    tensor(operators["rows"]).dataType = MIL_pb2.FLOAT64


def state(function, operators):
    own = function.inputs[0].type
    own.stateType.wrappedType.tensorType.CopyFrom(own.tensorType)


def no_opset(function, operators):
    function.opset = "CoreML9"


def no_output(function, operators):
    next(iter(function.block_specializations.values())).outputs[0] = "nowhere"


def outside(function, operators):
    operators["product_weight_0"].attributes["val"].blobFileValue.fileName = "@model_path/../../../../etc/passwd"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unknown_operator, ["'rows' (non_maximum_suppression)", "not known"]),
        (unknown_argument, ["'rows' (gather)", "'stride'"]),
        (missing_argument, ["'rows' (gather)", "'indices'"]),
        (missing_value, ["'rows' (gather)", "'nowhere'"]),
        (other_float, ["'shares' (softmax)", "fp16 [2, 3]", "fp32"]),
        (other_size, ["weight.bin is broken"]),
        (other_constant, ["'product_weight_0' (const)", "fp32 [4, 8]", "fp32 [5, 8]"]),
        (foreign_dtype, ["FLOAT64", "'rows'"]),
        (state, ["'x'", "stateType"]),
        (no_opset, ["'CoreML9'"]),
        (no_output, ["'nowhere'"]),
        (outside, ["passwd"]),
    ],
    ids=lambda own: getattr(own, "__name__", ""),
)
def test_a_program_without_sense_is_not_loaded(edited, change, words):
    with pytest.raises(UserError) as error:
        load(edited(change))
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in ["x.mlpackage", *words]), message


def test_a_package_is_none(edited, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.mlpackage is no folder"):
        load(tmp_path / "nowhere.mlpackage")
    package = edited()
    (package / WEIGHTS).write_bytes((package / WEIGHTS).read_bytes()[:-64])
    with pytest.raises(UserError, match=r"weight\.bin is broken"):
        load(package)
    (package / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="'product_weight_0'"):
        load(package)
    (package / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no file weight\.bin"):
        load(package)
    (package / "Data" / MODEL).write_bytes(b"no protobuf")
    with pytest.raises(UserError, match=r"model\.mlmodel is broken"):
        load(package)
    (package / "Data" / MODEL).unlink()
    with pytest.raises(UserError, match=r"no file model\.mlmodel"):
        load(package)
    (package / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(UserError, match="names no model"):
        load(package)
    (package / "Manifest.json").unlink()
    with pytest.raises(UserError, match=r"Manifest\.json does not exist"):
        load(package)


def test_a_neural_network_is_no_program(tmp_path):
    package = write_package(tmp_path / "x.mlpackage", neuralNetwork=NeuralNetwork_pb2.NeuralNetwork())
    with pytest.raises(UserError, match=r'holds a neuralNetwork, not an ML program; .*convert_to="mlprogram"'):
        load(package)


# Found when it runs.


def other_shape(function, operators):
    tensor(operators["rows"]).dimensions[1].constant.size = 4


def other_integer(function, operators):
    tensor(operators["rows"]).dataType = MIL_pb2.INT32


@pytest.mark.parametrize(("change", "declared"), [(other_shape, r"fp32 \[2, 4\]"), (other_integer, r"int32 \[2, 3\]")])
def test_a_value_other_than_declared(edited, change, declared):
    function = load(edited(change))["main"]
    with pytest.raises(
        UserError, match=rf"'rows' \(gather\) computes float32 \[2, 3\], the program declares {declared}"
    ):
        function({"x": X, "ids": IDS})


def test_an_operator_that_fails(edited):
    with pytest.raises(UserError, match=r"'rows' \(gather\) cannot be computed: indices 0 to 4 into 4"):
        load(edited())["main"]({"x": X, "ids": torch.tensor([0, 4, 1])})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": X}, r"input 'ids' \(int32 \[3\]\) is missing"),
        ({"x": X, "ids": IDS, "y": X}, "no input 'y'; its inputs: x, ids"),
        ({"x": X[0], "ids": IDS}, r"'x' is float32 \[8\], the program takes fp32 \[2, 8\]"),
        ({"x": X[:, :7], "ids": IDS}, r"'x' is float32 \[2, 7\]"),
        ({"x": X, "ids": IDS.float()}, r"'ids' is float32 \[3\], the program takes int32 \[3\]"),
        ({"x": X.long(), "ids": IDS}, r"'x' is int64 \[2, 8\]"),
        ({"x": X, "ids": IDS.long() + 2**40}, "'ids' has numbers beyond int32"),
    ],
)
def test_inputs_that_do_not_fit(edited, inputs, words):
    with pytest.raises(UserError, match=words):
        load(edited())["main"](inputs)


# Delegates.


def test_a_program_without_delegates(tmp_path):
    file = tmp_path / "x.pte"
    with pytest.raises(UserError, match=r"x\.pte cannot be read"):
        load_delegates(file)
    file.write_bytes(b"no program" * 20)
    with pytest.raises(UserError, match=r"x\.pte is no ExecuTorch program"):
        load_delegates(file)


def in_one_piece(nodes: list[dict], content: bytes = b"") -> bytes:
    return content + json.dumps({"nodes": nodes}).encode()[::-1]


def file_node(name: str, offset: int, size: int) -> dict:
    return {"name": name, "kind": 0, "dataRegion": {"offset": offset, "size": size}, "children": {}}


def folder_node(**children: int) -> dict:
    return {"name": "f", "kind": 1, "dataRegion": {"offset": 0, "size": 0}, "children": children}


def test_a_folder_in_one_piece():
    nodes = [file_node("a", 0, 2), file_node("b", 2, 3), folder_node(b=1), folder_node(a=0, inner=2)]
    files = folder_files(in_one_piece(nodes, b"aabbb"))
    assert {path: bytes(content) for path, content in files.items()} == {"a": b"aa", "inner/b": b"bbb"}
    many = [file_node(f"file{i}", i, 1) for i in range(3000)]
    data = in_one_piece([*many, folder_node(**{f"file{i}": i for i in range(3000)})], bytes(3000))
    assert len(data) > 1 << 17
    assert len(folder_files(data)) == 3000


@pytest.mark.parametrize(
    "nodes",
    [
        [file_node("a", 0, 9999), folder_node(a=0)],
        [file_node("a", -1, 1), folder_node(a=0)],
        [file_node("a", 0, 1), folder_node(**{"..": 0})],
        [file_node("a", 0, 1), folder_node(**{"../a": 0})],
        [file_node("a", 0, 1), folder_node(a=1)],
        [file_node("a", 0, 1), folder_node(a=7)],
        [file_node("a", 0, 1)],
        [],
    ],
    ids=["beyond", "before", "parent", "outside", "itself", "nowhere", "file", "empty"],
)
def test_a_broken_folder_in_one_piece(nodes):
    with pytest.raises((KeyError, IndexError)):
        folder_files(in_one_piece(nodes, b"abc"))
    with pytest.raises(json.JSONDecodeError):
        folder_files(in_one_piece(nodes, b"abc")[:-3])
