"""A model whose launches on a GPU are recorded once per batch size and then replayed.

Small models on a GPU wait for Python and the driver, which launch one kernel after the other; a
CUDA graph launches all of them at once. It always works on the same memory: inputs are copied
there, and outputs are copied out before the next replay can overwrite them, as both happen in the
order of one stream.

There is a recording for a few sizes. Other batches are filled up with zeros to the next one, which
is right for models whose samples do not influence each other, as the check of every size finds
out; what no recording fits, the model itself answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch.utils import _pytree as pytree

from flambeau.errors import HandlerFailed
from flambeau.optimizing.fit import Fit

if TYPE_CHECKING:
    from flambeau.optimizing.candidates import Call

_MAX_SIZES: Final = 8  # recordings share memory, but each keeps its outputs and takes time to make
_NUM_WARM_UPS: Final = 3  # libraries choose their kernels in the first runs; torch's notes have 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A batch size's work.

    Attributes:
        replay: Does it, from the inputs to the outputs.
        outputs: What the model gave while it was recorded; replaying fills these tensors anew.
    """

    replay: Callable[[], object]
    outputs: Any


class Record(Protocol):
    """Records what a call does with these very tensors; all recordings of one share memory."""

    def __call__(self, call: Call, inputs: Sequence[torch.Tensor], /) -> Recording: ...


class GraphedModel:
    """Replays recordings, or calls the model where none fits."""

    def __init__(
        self,
        model: Call,
        *,
        examples: Sequence[torch.Tensor],
        max_batch_size: int,
        record: Record,
    ) -> None:
        """Record all sizes, the largest first, so that the others fit into its memory.

        Args:
            model: Takes tensors with the batch first, gives tensors with the batch first.
            examples: Inputs of one sample or more.
            max_batch_size: The largest size to record.
            record: How.

        Raises:
            HandlerFailed: An output has no batch.
            Exception: The model cannot be recorded, e.g. as it waits for the device.
        """
        self._model = model
        self._fit = Fit(examples, max_batch_size=max_batch_size)
        self._buffers = [each.new_zeros((max_batch_size, *each.shape[1:])) for each in examples]
        for buffer, example in zip(self._buffers, examples, strict=True):
            buffer.copy_(example[:1].expand_as(buffer))
        self._sizes = sizes_to_record(max_batch_size)
        self._recordings: dict[int, Recording] = {}
        for size in reversed(self._sizes):
            recording = record(model, [buffer[:size] for buffer in self._buffers])
            for output in pytree.tree_leaves(recording.outputs):
                if not isinstance(output, torch.Tensor) or output.shape[:1] != (size,):
                    raise HandlerFailed("an output is no tensor with the batch first")
            self._recordings[size] = recording

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
        """The model's outputs, in memory of their own."""
        batch_size = 0 if named else self._fit.batch_size_of(inputs)
        if not batch_size:
            return self._model(*inputs, **named)
        size = next(each for each in self._sizes if each >= batch_size)
        for buffer, tensor in zip(self._buffers, inputs, strict=True):
            buffer[:batch_size].copy_(tensor)
            if batch_size < size:
                buffer[batch_size:size].zero_()  # nothing of earlier requests
        recording = self._recordings[size]
        recording.replay()

        def copied(output: torch.Tensor) -> torch.Tensor:
            return output[:batch_size].clone()

        return pytree.tree_map(copied, recording.outputs)


def sizes_to_record(max_batch_size: int) -> list[int]:
    """A few sizes, ascending: 1, 2, 4, ... and the largest; half of a large one is still there."""
    powers = [1 << place for place in range(max_batch_size.bit_length())]
    return sorted({*powers[-_MAX_SIZES + 1 :], 1, max_batch_size})


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Call, inputs: Sequence[torch.Tensor], /) -> Recording:
        """Run the call until it is warm, then record it.

        Raises:
            RuntimeError: It does what a graph cannot hold.
        """
        with torch.cuda.device(self._device), torch.inference_mode():
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):
                for _ in range(_NUM_WARM_UPS):
                    call(*inputs)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = call(*inputs)
        return Recording(replay=graph.replay, outputs=outputs)
