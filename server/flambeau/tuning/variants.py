"""One archive with other settings: for a trial, and for the archive that is written in the end.

The archive itself is only read. It is unpacked once; a variant is a directory that links to its
files and has a YAML of its own, which costs next to nothing even where the weights take gigabytes.
So what is measured is what is written: a model that finds its settings in its YAML.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flambeau.archive import unpack, write_zip_entry
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.model_yaml import read_model_yaml
from flambeau.tuning.model_config import with_settings
from flambeau.written_aside import written_aside

if TYPE_CHECKING:
    from flambeau.tuning.candidate import Candidate

_DEFAULT_CONFIG: Final = "model-config.yaml"
_THREADS: Final = "threadsPerWorker"
_DEFLATED_BYTES: Final = 1 << 20  # weights hardly compress


class Variants:
    """An archive's content and the variants made of it.

    Attributes:
        store: The model store that holds the variants.
        content: The archive, unpacked.
        manifest: What the archive says about itself.
        document: Its YAML; empty without one.
    """

    def __init__(self, archive: Path, directory: Path) -> None:
        """Unpack an archive.

        Args:
            archive: In any format.
            directory: An existing one, for all that is made here; whoever owns it removes it.

        Raises:
            ArchiveError: It cannot be read, or its YAML cannot.
        """
        self.store = directory / "store"
        self.store.mkdir()
        self.content = directory / "content"
        self.manifest: Manifest = unpack(archive, self.content)
        self.document: dict[str, Any] = read_model_yaml(self.content, self.manifest.config_file)
        self._config_file = self.manifest.config_file or _DEFAULT_CONFIG
        self._num_made = 0

    def yaml_of(self, candidate: Candidate, **more: int) -> str:
        """The model's YAML with a candidate's settings in it."""
        settings = {**candidate.as_yaml(), **more}
        if _THREADS in self.document:
            settings.setdefault(_THREADS, 0)
        return with_settings(self._yaml_text(), settings)

    def make(self, yaml_text: str) -> Path:
        """A variant in the store, ready to be registered by its name; `remove` it afterwards."""
        self._num_made += 1
        root = self.store / f"variant-{self._num_made}"
        for name, source in self._files(yaml_text).items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                target.write_bytes(source)
            else:
                _link(source, target)
        return root

    def remove(self, variant: Path) -> None:
        """Delete a variant that is not served any more."""
        shutil.rmtree(variant, ignore_errors=True)

    def write_archive(self, path: Path, yaml_text: str) -> None:
        """Write the archive anew, with this YAML.

        Args:
            path: A file that does not exist, in a directory that does.
            yaml_text: The model's YAML.

        Raises:
            ArchiveError: It cannot be written.
        """
        files = self._files(yaml_text)
        manifest = files.pop(MANIFEST_PATH)
        try:
            with written_aside(path) as file, zipfile.ZipFile(file, "w") as zipped:
                for name, source in [(MANIFEST_PATH, manifest), *sorted(files.items())]:
                    size = len(source) if isinstance(source, bytes) else source.stat().st_size
                    write_zip_entry(zipped, name, source, deflate=size <= _DEFLATED_BYTES)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be written: {error}") from error

    def _yaml_text(self) -> str:
        path = self.content / self._config_file
        return path.read_text(encoding="utf-8") if self.manifest.config_file else ""

    def _files(self, yaml_text: str) -> dict[str, Path | bytes]:
        """The content by name; without directories that are empty."""
        files: dict[str, Path | bytes] = {
            path.relative_to(self.content).as_posix(): path
            for path in self.content.rglob("*")
            if path.is_file()
        }
        files[MANIFEST_PATH] = self._manifest_text().encode()
        files[self._config_file] = yaml_text.encode()
        return files

    def _manifest_text(self) -> str:
        """The manifest as it is, keys that we do not know included, naming the YAML."""
        path = self.content / MANIFEST_PATH
        if not path.is_file():
            return Manifest(config_file=self._config_file).to_json()
        document = json.loads(path.read_bytes())
        document.setdefault("model", {})["configFile"] = self._config_file
        return json.dumps(document, indent=2) + "\n"


def _link(source: Path, target: Path) -> None:
    source = source.resolve()  # large files of an archive that is a directory are links themselves
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)
