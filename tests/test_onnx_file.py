"""Suspects that are ONNX files, of any batch size and type of number; and what is wrong with some."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import tiny
from metav.access import Access
from metav.endpoints import connect, content_of
from metav.errors import EndpointError, UsageError


def graph(path, node, batch, kinds=(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT), weight=None, **saved):
    """A model of one operator from (batch, 6); with a weight (6, 3) its second input."""
    given, answer = (
        onnx.helper.make_tensor_value_info(name, kind, [batch, None]) for name, kind in zip("xy", kinds, strict=True)
    )
    inputs = ["x"] if weight is None else ["x", "w"]
    weights = [] if weight is None else [onnx.numpy_helper.from_array(weight.numpy(), "w")]
    made = onnx.helper.make_graph([onnx.helper.make_node(node, inputs, ["y"])], "g", [given], [answer], weights)
    model = onnx.helper.make_model(made, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, path, **saved)
    return str(path)


@pytest.mark.parametrize("batch", [1, 4, None])
def test_a_file_may_fix_how_many_queries_it_takes(tmp_path, batch):
    x = torch.rand(6, 6)
    endpoint = connect(graph(tmp_path / "m.onnx", "Neg", batch), tiny.TABLES)
    torch.testing.assert_close(endpoint.query(x), -x)
    torch.testing.assert_close(endpoint.query(x[:3]), -x[:3])


def test_a_file_that_answers_more_often_than_asked_is_refused(tmp_path):
    endpoint = connect(graph(tmp_path / "m.onnx", "Transpose", None), tiny.TABLES)
    with pytest.raises(EndpointError, match="expected 2 answers from"):
        endpoint.query(torch.rand(2, 6))


def test_answers_of_a_file_may_be_of_any_type_of_number(tmp_path):
    x = torch.tensor([[1.5, 0.0], [-2.0, 3.0]])
    kinds = onnx.TensorProto
    half = connect(graph(tmp_path / "h.onnx", "Neg", None, (kinds.FLOAT16, kinds.FLOAT16)), tiny.TABLES)
    torch.testing.assert_close(half.query(x).float(), -x)
    yes = connect(graph(tmp_path / "b.onnx", "IsNaN", None, (kinds.FLOAT, kinds.BOOL)), tiny.TABLES)
    assert yes.query(x / x).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_words_of_a_file_are_no_answers(tmp_path):
    answers = np.array(["nevus", "melanoma"])
    node = onnx.helper.make_node("Constant", [], ["y"], value=onnx.numpy_helper.from_array(answers.astype(object)))
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 6])
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [2])
    made = onnx.helper.make_graph([node], "g", [given], [answer])
    model = onnx.helper.make_model(made, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    endpoint = connect(str(tmp_path / "m.onnx"), tiny.TABLES)
    with pytest.raises(EndpointError, match=r"expected numbers from output 'y' of .*, got an array of object: choose"):
        endpoint.query(torch.rand(2, 6))


def test_a_single_number_for_all_queries_is_no_answer_to_each(tmp_path):
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [None, 6]), ("y", []))
    ]
    node = onnx.helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    made = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(made, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(EndpointError, match=r"got arrays of shape \(\): choose another --output, or export"):
        connect(str(tmp_path / "m.onnx"), tiny.TABLES).query(torch.rand(2, 6))


@pytest.mark.parametrize("name", ["m.onnx.data", 120 * "w" + "/" + 60 * "w"])
def test_what_a_file_is_asked_for_is_known_by_its_weights_too(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    first, second = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    saved = {"save_as_external_data": True, "location": name, "size_threshold": 0}
    file = graph(tmp_path / "m.onnx", "MatMul", None, weight=first, **saved)
    content, known = (tmp_path / "m.onnx").read_bytes(), content_of(file, Access())
    assert content_of(file, Access()) == known
    (tmp_path / name).write_bytes(second.numpy().tobytes())
    assert (tmp_path / "m.onnx").read_bytes() == content
    assert content_of(file, Access()) != known
    (tmp_path / name).unlink()
    with pytest.raises(EndpointError, match=rf"in {tmp_path / name}, got no such file: put it there"):
        connect(file, tiny.TABLES)


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "bad.onnx").write_text("<html>")
    with pytest.raises(EndpointError, match="expected an ONNX model in"):
        connect(str(tmp_path / "bad.onnx"), tiny.TABLES)


def test_a_file_of_other_inputs_is_told_with_what_it_takes(tmp_path):
    kinds = onnx.TensorProto
    bytes_ = graph(tmp_path / "b.onnx", "Identity", None, (kinds.UINT8, kinds.UINT8))
    with pytest.raises(UsageError, match=r"expected one input of floats in .*b\.onnx', got x \(tensor\(uint8\)\)"):
        connect(bytes_, tiny.TABLES)
    values = [onnx.helper.make_tensor_value_info(name, kinds.FLOAT, [None, 6]) for name in "abcd"]
    nodes = [onnx.helper.make_node("Add", ["a", "b"], ["c"]), onnx.helper.make_node("Neg", ["c"], ["d"])]
    made = onnx.helper.make_graph(nodes, "g", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, ir_version=9, opset_imports=opset), tmp_path / "two.onnx")
    with pytest.raises(UsageError, match=r"got a \(tensor\(float\)\), b \(tensor\(float\)\): it takes something else"):
        connect(str(tmp_path / "two.onnx"), tiny.TABLES, Access(output="c"))


def test_a_file_that_takes_other_shapes_is_told_with_both(tmp_path):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 4, "w"]) for name in "xy"]
    made = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, ir_version=9, opset_imports=opset), tmp_path / "m.onnx")
    with pytest.raises(
        EndpointError, match=r"inputs are of shape \(4, w\), got an error to queries of shape \(6,\) \("
    ):
        connect(str(tmp_path / "m.onnx"), tiny.TABLES).query(torch.rand(2, 6))
