"""Handlers that read gRPC's inputs: bytes by name."""

from __future__ import annotations

from pathlib import Path

from flambeau.testing import make_archive
from tests.integration.archives import service, summing

_HELD = """
    import time
    from pathlib import Path

    def handle(data, context):
        for row in data or []:
            gate = Path(row["gate"].decode())
            gate.with_name(row["name"].decode() + ".started").touch()
            while not gate.exists():
                time.sleep(0.005)
        return [str(len(data)) for _ in data or []]
"""
_COUNT = """
    def handle(data, context):
        if data is None:
            return
        (row,) = data
        for number in range(int(row["count"])):
            context.send_intermediate([f"{number} "])
        if "fail" in row:
            raise ValueError("in the middle")
        return ["end"]
"""
_ENDLESS = """
    import time
    from pathlib import Path

    def handle(data, context):
        if data is None:
            return
        (row,) = data
        gate = Path(row["gate"].decode())
        context.send_intermediate(["first"])
        while not gate.exists():
            time.sleep(0.005)
        return ["last"]
"""
_CARELESS = """
    from flambeau.errors import HandlerFailed, InvalidInput

    def handle(data, context):
        if data is None:
            return
        (row,) = data
        match row["do"].decode():
            case "raise":
                raise ValueError("a secret of the model")
            case "raise no memory":
                raise MemoryError
            case "return no list":
                return "no list"
            case "refuse":
                return [InvalidInput("the image is not an image")]
            case "choose a status":
                context.set_response_status(404, "As It Wishes", 0)
                return ["an answer"]
            case status:
                return [HandlerFailed("as it wishes", status=int(status))]
"""
_SUM = """
    class Handler:
        def initialize(self, context):
            self.sums = {}

        def handle(self, data, context):
            answers = []
            for idx, row in enumerate(data):
                sequence = context.get_request_header(idx, "ts_request_sequence_id")
                self.sums[sequence] = self.sums.get(sequence, 0) + int(row["number"])
                answers.append(str(self.sums[sequence]))
            return answers
"""
_TENSORS = """
    import json

    def handle(data, context):
        answers = []
        for row in data or []:
            request = row["body"]
            shown = {
                "name": "request", "datatype": "BYTES", "shape": [1], "data": [json.dumps(request)]
            }
            answers.append({
                "model_name": context.model_name,
                "parameters": {"device": "cpu", "cold": False, "steps": 3},
                "outputs": [*request["inputs"], shown],
            })
        return answers
"""


def make_held(store: Path) -> Path:
    """The archive of `held`: batches of 4, answered when a test lets them."""
    yaml = "batchSize: 4\njobQueueSize: 8\n"
    return make_archive(store, name="held", handler=_HELD, model_yaml=yaml)


def make_models(store: Path) -> list[str]:
    """Archives of all of them; their names in the store."""
    archives = [
        service(store, "echo", version="1.0"),
        service(store, "echo", version="2.0"),
        make_held(store),
        make_archive(store, name="count", handler=_COUNT),
        make_archive(store, name="endless", handler=_ENDLESS),
        make_archive(store, name="careless", handler=_CARELESS),
        make_archive(
            store, name="sum", handler=_SUM, model_yaml="sequenceBatching: true\nbatchSize: 2\n"
        ),
        make_archive(store, name="tensors", handler=_TENSORS),
        summing(store),
    ]
    return [archive.name for archive in archives]
