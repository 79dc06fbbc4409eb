"""Model files, one module per kind: each turns a file into something that `inference` calls.

    eager.py         a Python file with the model's class, and its state dict
    onnx_session.py  `.onnx`, run by onnxruntime
    exported.py      `.pt2` programs of `torch.export`, and packages of AOTInductor
    compiled.py      `torch.compile`, as the model's YAML asks for it
    pickled.py       the one place that unpickles, for models whose YAML allows it

TorchScript has `torchscript.py`.
"""
