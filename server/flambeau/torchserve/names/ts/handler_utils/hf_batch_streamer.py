"""TorchServe's name for `flambeau.torchserve.text_streamer`."""

from flambeau.torchserve.text_streamer import TextIteratorStreamerBatch

__all__ = ["TextIteratorStreamerBatch"]
