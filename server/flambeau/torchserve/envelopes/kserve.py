"""`kserve`: KServe's first protocol, `{"instances": [...]}` to `{"predictions": [...]}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.torchserve.envelopes.instances import instances_of
from flambeau.torchserve.envelopes.samples import SampleEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping


class KServeEnvelope(SampleEnvelope):
    """Each instance is a sample, as it is; explanations are answered under their own name."""

    def samples_of(self, document: Mapping[str, Any]) -> list[Any]:
        return instances_of(document)

    def answer_of(
        self,
        outputs: Any,  # noqa: ANN401  # the handler's
        document: Mapping[str, Any],  # noqa: ARG002
        idx: int,
    ) -> dict[str, Any]:
        return {"explanations" if self._is_explain(idx) else "predictions": outputs}

    def _is_explain(self, idx: int) -> bool:
        context = self.context
        if context is None or not context.request_processor:
            return False
        return bool(context.get_request_header(idx, "explain") == "True")
