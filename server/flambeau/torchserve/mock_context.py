"""`MockContext`: a context for tests of handlers, without a server or an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flambeau.context import Context, RequestProcessor
from flambeau.handler_metrics import MetricsCache
from flambeau.model_yaml import read_model_yaml


class MockContext(Context):
    """A context that says where a model's files are, within a batch of one request.

    Attributes:
        explain: Whether the request asks for an explanation.
    """

    def __init__(  # noqa: PLR0917  # TorchServe's signature
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str | Path = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | int | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        """Name a model's files; all but the folder by their names in it.

        Args:
            model_pt_file: The weights, or None.
            model_dir: The folder.
            model_file: The Python file with the model's class, or None.
            gpu_id: The GPU to use where there are GPUs, or None for the CPU.
            model_name: What the model is called.
            model_yaml_config_file: The model's YAML, or None.

        Raises:
            ArchiveError: The YAML is missing, or is not YAML.
        """
        model: dict[str, Any] = {"modelName": model_name, "modelFile": model_file or ""}
        if model_pt_file is not None:
            model["serializedFile"] = model_pt_file
        super().__init__(
            model_name,
            str(model_dir),
            {"model": model},
            1,
            None if gpu_id is None else int(gpu_id),
            "0.12.0",
            metrics=MetricsCache(model_name=model_name, auto_detect=True),
            model_yaml_config=read_model_yaml(Path(model_dir), model_yaml_config_file),
        )
        self.explain = False
        self.request_ids = {0: "request"}
        self.request_processor = [RequestProcessor({})]

    def get_request_header(self, idx: int, key: str) -> Any:  # noqa: ANN401  # as the base class
        """As `explain` says, and what `request_processor` holds."""
        if key == "explain":
            return str(self.explain)
        return super().get_request_header(idx, key)
