"""Copies by a stream of their own; `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from flambeau.errors import InvalidInput
from flambeau.sample_handler import Prepared
from flambeau.side_copies import SideCopies

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda", 0)


def test_what_is_sent_beside_a_computation_arrives_whole() -> None:
    copies = SideCopies(CUDA)
    busy = torch.ones(4096, 4096, device=CUDA)
    for number in range(20):
        busy = busy @ busy / 4096
        arrival = copies.begin([torch.full((1 << 20,), float(number))])
        arrival.wait()
        (there,) = arrival.tensors
        assert there.device == CUDA
        assert there.eq(number).all().item()
    assert busy.isfinite().all().item()


def test_samples_and_what_is_wrong_with_others_keep_their_places() -> None:
    bad = InvalidInput("no image")
    prepared = Prepared(
        rows=[],
        inputs=None,
        samples=[(torch.zeros(3), torch.ones(2)), bad, (torch.full((3,), 2.0), torch.ones(1))],
        seconds=0.0,
    )
    sent = prepared.sent_by(SideCopies(CUDA))
    assert sent.arrival is not None
    sent.arrival.wait()
    first, error, last = sent.samples
    assert error is bad
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    assert [part.tolist() for part in (*first, *last)] == [[0, 0, 0], [1, 1], [2, 2, 2], [1]]
    assert {part.device for part in (*first, *last)} == {CUDA}


def test_a_whole_batch_is_sent_as_it_is() -> None:
    inputs = (torch.arange(6.0).view(2, 3),)
    prepared = Prepared(rows=[], inputs=inputs, samples=[], seconds=0.0)
    sent = prepared.sent_by(SideCopies(CUDA))
    assert sent.arrival is not None
    assert sent.inputs is not None
    sent.arrival.wait()
    assert sent.inputs[0].cpu().equal(inputs[0])
