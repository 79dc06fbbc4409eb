"""ONNX models, run by onnxruntime and called like any other model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from flambeau.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path


class OnnxModel:
    """A session that takes and gives tensors.

    Everything of onnxruntime's `InferenceSession` is here too: `run`, `get_inputs`, ...

    Attributes:
        session: onnxruntime's session.
        device: Where outputs are put.
    """

    def __init__(self, session: Any, *, device: torch.device) -> None:  # noqa: ANN401  # untyped
        self.session = session
        self.device = device
        self._input_names: list[str] = [item.name for item in session.get_inputs()]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the session has
        if name == "session":  # not set yet, so there is nobody to ask
            raise AttributeError(name)
        return getattr(self.session, name)

    def __call__(
        self, *inputs: torch.Tensor, **named: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            *inputs: In the order of the file's inputs.
            **named: Further inputs by name.

        Returns:
            The output, or all of them in the file's order when there are several.

        Raises:
            ValueError: There are more inputs than the model takes.
            Exception: onnxruntime's, when an input is missing or has the wrong shape or type.
        """
        if len(inputs) > len(self._input_names):
            names = ", ".join(self._input_names)
            raise ValueError(f"the model takes {names}; {len(inputs)} inputs were given")
        by_name = dict(zip(self._input_names, inputs, strict=False)) | named
        feed = {name: tensor.detach().cpu().numpy() for name, tensor in by_name.items()}
        outputs = tuple(
            torch.from_numpy(output).to(self.device) for output in self.session.run(None, feed)
        )
        return outputs[0] if len(outputs) == 1 else outputs


def load(path: Path, *, device: torch.device) -> OnnxModel:
    """Read an ONNX file; on a CUDA device it runs there, if onnxruntime can.

    It computes with as many threads as torch may use in this process.

    Raises:
        ArchiveError: onnxruntime is not installed, or the file is missing or damaged.
    """
    try:
        import onnxruntime  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ArchiveError(
            f"No model weights could be loaded: {path.name} needs onnxruntime, which is not "
            "installed; pip install 'flambeau[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=_providers(device, onnxruntime)
        )
    except Exception as error:  # one class per status, none of them exported
        reason = str(error).strip().partition("\n")[0]
        raise ArchiveError(f"{path.name} is not an ONNX model, or is damaged ({reason})") from error
    return OnnxModel(session, device=device)


def _providers(device: torch.device, onnxruntime: Any) -> list[Any]:  # noqa: ANN401  # a module
    on_cpu = "CPUExecutionProvider"
    if device.type != "cuda" or "CUDAExecutionProvider" not in (
        onnxruntime.get_available_providers()
    ):
        return [on_cpu]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), on_cpu]
