"""Exported files that are bad on purpose, see `fuzz.crafted`."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzz import seeds
from fuzz.crafted import Crafted, odd_texts, pickles, with_main


def odd_metadata() -> dict[str, str]:
    """What exported files may say of themselves."""
    found = {f"metadata {i}": word for i, word in enumerate(odd_texts())}
    changes: dict[str, Any] = {
        "a huge image": {"preprocessing": {**seeds.metadata()["preprocessing"], "image_size": 10**9, "resize": 10**9}},
        "no channels": {"preprocessing": {**seeds.metadata()["preprocessing"], "mean": [], "std": []}},
        "other channels": {"preprocessing": {**seeds.metadata()["preprocessing"], "mean": [0.5] * 4, "std": [0.5] * 4}},
        "another shape": {"input": {**seeds.metadata()["input"], "shape": ["a", "b", "c", "d"]}},
        "a huge batch": {"input": {**seeds.metadata()["input"], "shape": [10**9, 3, 8, 8]}},
        "a batch below 0": {"input": {**seeds.metadata()["input"], "shape": [-1, 3, 8, 8]}},
        "a batch of nothing": {"input": {**seeds.metadata()["input"], "shape": [None, 3, 8, 8]}},
        "a layout that is none": {"input": {**seeds.metadata()["input"], "layout": "x"}},
        "pixels": {"input": {**seeds.metadata()["input"], "layout": "NHWC"}},
        "pixels that it resizes": {"input": {**seeds.metadata()["input"], "layout": "NHWC", "resizes": True}},
        "classes that are none": {"class_names": [1, 2, 3]},
        "other classes": {"class_names": ["a"]},
        "a detector": {"task": "detection"},
        "a detector that scales": {
            "task": "detection",
            "transform": {"min_size": 10**9, "max_size": 10**9, "image_mean": [0], "image_std": [0]},
        },
        "a detector that is none": {
            "task": "detection",
            "class_names": 3,
            "transform": {"min_size": "x", "max_size": 1, "image_mean": 1, "image_std": 1},
        },
        "a source that is none": {"source": 3},
        "held out": {"source": {"held_out": 3}},
    }
    return found | {about: json.dumps(seeds.metadata() | values) for about, values in changes.items()}


def onnx(canary: Path) -> Crafted:
    """ONNX files."""
    import onnx as library
    from onnx import TensorProto, helper

    def changed(change: Callable[[Any], object]) -> bytes:
        model = library.ModelProto()
        model.CopyFrom(seeds.onnx_model())
        change(model)
        return model.SerializeToString()

    def outside(location: str) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            (weight,) = model.graph.initializer
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)

        return change

    def shape_of(*dims: int) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(dims)

        return change

    def filled(model: Any) -> None:
        size = helper.make_tensor("size", TensorProto.INT64, [1], [2**33])
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["huge"]))
        model.graph.initializer.append(size)

    found = {
        f"weights in {place[:20]}": changed(outside(place))
        for place in ("../../up", "/etc/hostname", "", "net.onnx", "x" * 5000)
    }
    found |= {
        "a huge weight": changed(shape_of(2**40, 3, 3, 3)),
        "a weight below 0": changed(shape_of(-1, 3, 3, 3)),
        "a huge constant": changed(filled),
        "an operator of another library": changed(lambda m: m.graph.node[0].__setattr__("domain", "evil")),
        "an unknown operator": changed(lambda m: m.graph.node[0].__setattr__("op_type", "Evil")),
        "a circle": changed(lambda m: m.graph.node[0].input.__setitem__(0, "logits")),
        "no output": changed(lambda m: m.graph.ClearField("output")),
        "no input": changed(lambda m: m.graph.ClearField("input")),
        "two inputs": changed(
            lambda m: m.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]))
        ),
        "an input of texts": changed(
            lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.STRING)
        ),
        "no metadata": changed(lambda m: m.ClearField("metadata_props")),
        "an output of one number": changed(lambda m: m.graph.output[0].__setattr__("name", "features")),
    }
    for about, word in odd_metadata().items():
        found[about] = changed(lambda model, word=word: helper.set_model_props(model, {seeds.KEY: word}))
    return with_main("net.onnx", found)


def openvino(canary: Path) -> Crafted:
    """Graphs of OpenVINO."""
    (files,) = seeds.openvino()
    good = files["net.xml"].decode()
    changes = {
        "a huge offset": ('offset="0"', f'offset="{2**63}"'),
        "an offset below 0": ('offset="0"', 'offset="-8"'),
        "an offset of digits": ('offset="0"', f'offset="{"9" * 5000}"'),
        "a huge size": ('size="324"', f'size="{2**62}"'),
        "a size below 0": ('size="324"', 'size="-1"'),
        "a huge shape": ('shape="3,3,3,3"', 'shape="3000000,3,300000,3"'),
        "a shape below 0": ('shape="3,3,3,3"', 'shape="-3,-3,3,3"'),
        "an operation of an extension": ('type="Convolution"', f'type="{canary}.so"'),
        "another version": ('version="opset1"', 'version="extension"'),
        "an entity of a file": (
            '<?xml version="1.0"?>',
            '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        ),
        "a huge input": ('shape="1,3,8,8"', 'shape="1000000000,3,8,8"'),
    }
    found = {about: good.replace(*change) for about, change in changes.items()}
    for about, word in odd_metadata().items():
        escaped = word.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        before, _, after = good.partition('<senet value="')
        found[about] = before + '<senet value="' + escaped + after[after.find('"') :] if after else good
    found |= {
        "deep": "<net>" * 10_000,
        "empty": "",
        "entities": good.replace("<net ", "<!DOCTYPE net [<!ENTITY a 'b'>]><net "),
    }
    return with_main("net.xml", {about: word.encode() for about, word in found.items()}, files)


def torch_export(canary: Path) -> Crafted:
    """Archives of torch.export."""
    (files,) = seeds.torch_export()
    content, found = files["net.pt2"], {}
    code = f"__import__('os').mkdir({str(canary)!r})"
    named = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True}
    objects_of_cpp = json.dumps({"config": {"a": named}}).encode()

    def changed(ending: str, change: Callable[[bytes], bytes], more: Mapping[str, bytes] | None = None) -> bytes:
        written = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
            for name in old.namelist():
                inner = old.read(name)
                new.writestr(name, change(inner) if name.endswith(ending) else inner)
            top = old.namelist()[0].partition("/")[0]
            for name, inner in (more or {}).items():
                new.writestr(f"{top}/{name}", inner)
        return written.getvalue()

    def program(change: Callable[[dict[str, Any]], object]) -> bytes:
        def edit(inner: bytes) -> bytes:
            values = json.loads(inner)
            change(values)
            return json.dumps(values).encode()

        return changed("models/model.json", edit)

    for about, word in pickles(canary).items():
        found[f"inputs: {about}"] = changed("sample_inputs/model.pt", lambda _, word=word: word)
        found[f"objects: {about}"] = changed(
            "?", bytes, {"data/constants/custom_obj_0": word, "data/weights/weight_9": word}
        )
        found[f"weights: {about}"] = changed("weights/weight_0", lambda _, word=word: word)
    for about, word in odd_metadata().items():
        found[about] = changed("senet.json", lambda _, word=word: word.encode())
    found |= {
        "guards of code": program(lambda p: p.__setitem__("guards_code", [code])),
        "a size of code": program(
            lambda p: p["range_constraints"].__setitem__("s", {"min_val": 0, "max_val": 9, "expr_str": code})
        ),
        "an operation that loads": program(
            lambda p: p["graph_module"]["graph"]["nodes"][0].__setitem__("target", "torch.load")
        ),
        "an operation that runs": program(
            lambda p: p["graph_module"]["graph"]["nodes"][0].__setitem__("target", "torch.ops.aten.os.system")
        ),
        "verifiers": program(lambda p: p.__setitem__("verifiers", ["os.system"])),
        "another version": program(lambda p: p["schema_version"].__setitem__("major", 99)),
        "a shared library": changed(
            "?", bytes, {"data/aotinductor/model/x.so": b"\x7fELF", "data/aotinductor/model/x.wrapper.so": b"\x7fELF"}
        ),
        "an object of C++": changed(
            "?",
            bytes,
            {
                "data/constants/model_constants_config.json": objects_of_cpp,
                "data/constants/custom_obj_0": pickles(canary)["code in a pickle"],
            },
        ),
    }
    return with_main("net.pt2", found)
