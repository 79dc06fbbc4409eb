"""The model of an archive in this process, in the form in which a worker would run it.

What is measured here, without requests, queue and handler, is what a server can come close to:

with bare_model(Path("resnet.mar"), max_batch_size=16, num_threads=2) as bare:
    print(bare.optimization)
    bare.inference(images_BCHW)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flambeau
from flambeau.archive import digest, unpack
from flambeau.errors import HandlerFailed
from flambeau.handler import BaseHandler
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.messages import LoadModel, OptimizeLevel, OptimizeWish

if TYPE_CHECKING:
    from flambeau.loading import LoadEntryPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class BareModel:
    """A loaded model without a server around it.

    Attributes:
        inference: The model in the form that was chosen; takes a batch, gives its outputs.
        original: The model as it was exported.
        optimization: What was chosen, for people.
        check: What the comparison with the archive's samples found.
    """

    inference: Callable[..., Any]
    original: Any
    optimization: str
    check: str


@contextmanager
def bare_model(
    archive: Path,
    *,
    max_batch_size: int = 1,
    num_threads: int | None = None,
    level: OptimizeLevel = OptimizeLevel.SAFE,
    within_s: float = 3.0,
    device: str = "cpu",
    load_entry_point: LoadEntryPoint = load_handler,
) -> Generator[BareModel]:
    """Load an archive's model here, choose its form and check it.

    Args:
        archive: A model archive.
        max_batch_size: The size of a full batch.
        num_threads: Threads one operation may use, as given; None for all CPUs or fewer.
        level: How far the model may be changed.
        within_s: Seconds of measuring after which the form is chosen.
        device: `cpu` or `cuda:N`.
        load_entry_point: How to get from an archive to its handler.

    Raises:
        ArchiveError: The archive cannot be read.
        HandlerFailed: Its handler has no model of its own, or computes something else than was
            recorded.
        Exception: Whatever its code raises.
    """
    with tempfile.TemporaryDirectory() as directory:
        model_dir = Path(directory) / "model"
        manifest = unpack(archive, model_dir)
        name = manifest.model_name or archive.stem
        load = LoadModel(
            model_name=name,
            model_version=manifest.model_version,
            model_dir=str(model_dir),
            handler=None,
            device=device,
            max_batch_size=max_batch_size,
            num_threads=num_threads or os.cpu_count() or 1,
            max_response_bytes=1 << 32,
            server_version=flambeau.__version__,
            optimize=OptimizeWish(
                level=level,
                within_s=within_s,
                choose_threads=num_threads is None,
                archive_digest=digest(archive),
            ),
        )
        instance = ModelInstance.load(load, load_entry_point=load_entry_point)
        instance.warm_up()
        check = instance.check()
        handler = instance.handler
        if not isinstance(handler, BaseHandler):
            raise HandlerFailed(f"the handler of {archive} loads its model in a way of its own")
        yield BareModel(
            inference=handler.model_to_call,
            original=handler.model,
            optimization=instance.optimization,
            check=check,
        )
