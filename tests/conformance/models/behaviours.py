"""A handler that does what each request asks it to do: every way to answer, and to fail."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from ts.context import Context
from ts.utils.util import PredictionException

_WHOLE = object()  # before a value: not one result of a batch, but what `handle` returns


class Behaviours:
    """Class style, without a base class."""

    def __init__(self) -> None:
        self.num_loads = 0

    def initialize(self, context: Context) -> None:
        self.num_loads += 1
        self.context_at_load = context

    def handle(self, data: list[dict[str, Any]], context: Context) -> object:
        results: list[object] = []
        for index, row in enumerate(data):
            order = row.get("body", row.get("data"))
            if not isinstance(order, dict):
                order = {"do": "echo", "value": str(order)}
            results.append(self._obey(order, context, index))
        match results:
            case [(first, value), *_] if first is _WHOLE:
                return value
            case _:
                return results

    def _obey(self, order: dict[str, Any], context: Context, index: int) -> object:
        if order.get("header"):
            for key, value in order["header"].items():
                context.set_response_header(index, key, value)
        if order.get("content_type"):
            context.set_response_content_type(index, order["content_type"])
        if order.get("status"):
            context.set_response_status(order["status"], order.get("phrase", ""), index)
        return getattr(self, "_" + order["do"])(order, context, index)

    def _echo(self, order: dict[str, Any], context: Context, index: int) -> object:
        return order.get("value")

    def _bytes(self, order: dict[str, Any], context: Context, index: int) -> bytes:
        return bytes.fromhex(order["value"])

    def _bytearray(self, order: dict[str, Any], context: Context, index: int) -> bytearray:
        return bytearray.fromhex(order["value"])

    def _tensor(self, order: dict[str, Any], context: Context, index: int) -> torch.Tensor:
        return torch.tensor(order["value"])

    def _long(self, order: dict[str, Any], context: Context, index: int) -> str:
        return "x" * int(order["value"])

    def _not_a_number(self, order: dict[str, Any], context: Context, index: int) -> list[float]:
        return [float("nan"), float("inf"), -float("inf")]

    def _tuple(self, order: dict[str, Any], context: Context, index: int) -> tuple[int, str]:
        return (1, "two")

    def _integer_keys(self, order: dict[str, Any], context: Context, index: int) -> object:
        return {1: "one", 2: {"three": None}}

    def _raise(self, order: dict[str, Any], context: Context, index: int) -> None:
        raise ValueError(order.get("value", "refused"))

    def _missing_key(self, order: dict[str, Any], context: Context, index: int) -> object:
        return order["not there"]

    def _prediction_exception(self, order: dict[str, Any], context: Context, index: int) -> None:
        if "code" in order:
            raise PredictionException(order["value"], order["code"])
        raise PredictionException(order["value"])

    def _memory(self, order: dict[str, Any], context: Context, index: int) -> None:
        raise MemoryError("no memory is left")

    def _cuda(self, order: dict[str, Any], context: Context, index: int) -> None:
        raise RuntimeError("CUDA error: out of memory")

    def _unserialisable(self, order: dict[str, Any], context: Context, index: int) -> object:
        return {"item": object()}

    def _too_few(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, [])

    def _too_many(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, ["one", "two", "three", "four"])

    def _no_list(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, {"not": "a list"})

    def _nothing(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, None)

    def _a_string(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, "text")

    def _a_tuple(self, order: dict[str, Any], context: Context, index: int) -> object:
        return (_WHOLE, ("text",))

    def _exit(self, order: dict[str, Any], context: Context, index: int) -> None:
        os._exit(int(order.get("value", 1)))

    def _sleep(self, order: dict[str, Any], context: Context, index: int) -> str:
        time.sleep(order["value"])
        return "slept"

    def _status_of_all(self, order: dict[str, Any], context: Context, index: int) -> str:
        context.set_all_response_status(order["value"], "for all")
        return "all"

    def _headers(self, order: dict[str, Any], context: Context, index: int) -> object:
        everything = context.get_all_request_header(index)
        return {name: everything.get(name) for name in order["value"]}

    def _one_header(self, order: dict[str, Any], context: Context, index: int) -> object:
        return {name: context.get_request_header(index, name) for name in order["value"]}

    def _context(self, order: dict[str, Any], context: Context, index: int) -> object:
        properties = dict(context.system_properties)
        return {
            "model_name": context.model_name,
            "manifest": {key: context.manifest[key] for key in ("runtime", "model")},
            "properties": {
                key: properties[key]
                for key in ("gpu_id", "batch_size", "server_name", "limit_max_image_pixels")
            },
            "in_model_dir": Path.cwd() == Path(properties["model_dir"]),
            "files": sorted(
                path.name
                for path in Path(properties["model_dir"]).iterdir()
                if path.name != "__pycache__"
            ),
            "model_yaml_config": context.model_yaml_config,
            "num_request_ids": len(context.request_ids),
            "same_request_id": context.get_request_id(index) == context.request_ids[index],
            "same_context": context is self.context_at_load,
            "num_processors": len(context.request_processor),
            "num_loads": self.num_loads,
            "sequence": context.get_sequence_id(index),
            "status": context.get_response_status(index),
            "response_headers": context.get_response_headers(index),
        }

    def _environment(self, order: dict[str, Any], context: Context, index: int) -> object:
        return {name: os.environ.get(name) for name in order["value"]}
