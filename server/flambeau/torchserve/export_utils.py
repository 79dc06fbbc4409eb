"""The static helpers of `model_archiver.model_packaging_utils`, and that tool's other entrances.

For scripts that were written against torch-model-archiver's Python names; `archiver.py` itself
needs none of this. Signatures and results are that tool's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from flambeau.manifest import MANIFEST_PATH
from flambeau.torchserve.archive_files import (
    ArchiveFormat,
    Files,
    ModelArchiverError,
    below,
    check_name,
    existing,
    extra_files,
    target_in,
    write,
)
from flambeau.torchserve.archiver import (
    ModelArchiverConfig,
    archive_model,
    config_of,
    configure,
    handler_file,
)
from flambeau.torchserve.export_manifest import Manifest, Model

Destination: TypeAlias = "zipfile.ZipFile | tarfile.TarFile | str | os.PathLike[str]"


class ArgParser:
    """The flags of the command."""

    @staticmethod
    def export_model_args_parser() -> ModelArchiverConfig:
        """Read this process's command line."""
        parser = argparse.ArgumentParser(prog="torch-model-archiver")
        configure(parser, required=True)
        return config_of(parser.parse_args())


class ModelArchiver:
    """The tool as a class."""

    @staticmethod
    def generate_model_archive(config: ModelArchiverConfig) -> None:
        """Make one archive; raises as `archive_model` does."""
        generate_model_archive(config)


def package_model(config: ModelArchiverConfig, manifest: str) -> None:
    """Make an archive with a given manifest; raises as `archive_model` does."""
    archive_model(config, manifest=manifest)


def generate_model_archive(config: ModelArchiverConfig | None = None) -> None:
    """Make one archive of what `config`, or else the command line, says; raises as above."""
    archive_model(ArgParser.export_model_args_parser() if config is None else config)


class ModelExportUtils:
    """Steps of archiving, one by one."""

    @staticmethod
    def get_archive_export_path(export_file_path: str, model_name: str, archive_format: str) -> str:
        """The artefact's path."""
        return str(Path(export_file_path) / (model_name + ArchiveFormat(archive_format).suffix))

    @staticmethod
    def check_mar_already_exists(
        model_name: str,
        export_file_path: str | None,
        overwrite: bool,  # noqa: FBT001  # the tool's signature
        archive_format: str = ArchiveFormat.DEFAULT.value,
    ) -> str:
        """The directory to write to; raises ModelArchiverError when the artefact is there."""
        directory = export_file_path or str(Path.cwd())
        path = ModelExportUtils.get_archive_export_path(directory, model_name, archive_format)
        if Path(path).exists():
            target_in(directory, Path(path).name, force=overwrite)
        return directory

    @staticmethod
    def find_unique(files: Iterable[str], suffix: str) -> str | None:
        """The one file that ends so; raises ModelArchiverError when there are several."""
        found = [file for file in files if file.endswith(suffix)]
        if len(found) > 1:
            raise ModelArchiverError(f"{len(found)} files end in {suffix}: {found}; leave one")
        return found[0] if found else None

    @staticmethod
    def generate_model(modelcfg: ModelArchiverConfig) -> Model:
        """The model's part of the manifest."""
        return Model(
            model_name=modelcfg.model_name,
            serialized_file=modelcfg.serialized_file,
            handler=modelcfg.handler,
            model_file=modelcfg.model_file,
            model_version=modelcfg.version,
            requirements_file=modelcfg.requirements_file,
            config_file=modelcfg.config_file,
        )

    @staticmethod
    def generate_manifest_json(config: ModelArchiverConfig) -> str:
        """The manifest's text."""
        return str(Manifest(config.runtime, ModelExportUtils.generate_model(config)))

    @staticmethod
    def clean_temp_files(temp_files: Iterable[str]) -> None:
        """Remove files."""
        for file in temp_files:
            Path(file).unlink()

    @staticmethod
    def make_dir(d: str) -> None:
        """Make a directory and its parents, if it is not there."""
        Path(d).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def copy_artifacts(model_name: str, runtime: str, **kwargs: str | None) -> str:
        """Copy files into a new directory, whose name is the model's; the caller removes it.

        Args:
            model_name: The directory's name.
            runtime: Whose handler files to look for.
            **kwargs: Paths; `handler` and `extra_files` are as in the command's flags.

        Raises:
            FileNotFoundError: A file is not there.
        """
        directory = Path(tempfile.mkdtemp()) / model_name
        directory.mkdir()
        for kind, path in kwargs.items():
            if kind == "extra_files":
                files = extra_files(path, without=directory)
            elif kind == "handler" and path:
                files = _single(handler_file(path, runtime=runtime))
            else:
                files = _single(path)
            for name, source in files.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, directory / name)
        return str(directory)

    @staticmethod
    def archive(
        export_file: str,
        model_name: str,
        model_path: str,
        manifest: str,
        archive_format: str = ArchiveFormat.DEFAULT.value,
    ) -> None:
        """Make an archive in the directory `export_file` of what is below `model_path`."""
        path = ModelExportUtils.get_archive_export_path(export_file, model_name, archive_format)
        files: dict[str, Path | bytes] = dict(below(Path(model_path)))
        files[MANIFEST_PATH] = manifest.encode()
        write(Path(path), files, ArchiveFormat(archive_format), top=model_name)

    @staticmethod
    def archive_dir(
        path: str,
        dst: Destination,
        archive_format: str,  # noqa: ARG004  # the tool's signature; `dst` tells as much
        model_name: str,
    ) -> None:
        """Add what is below `path` to an open archive, or copy it to a directory."""
        for name, source in below(Path(path)):
            if isinstance(dst, tarfile.TarFile):
                dst.add(source, arcname=f"{model_name}/{name}")
            elif isinstance(dst, zipfile.ZipFile):
                dst.write(source, name)
            else:
                write(Path(dst), {name: source}, ArchiveFormat.NO_ARCHIVE, top=model_name)

    @staticmethod
    def directory_filter(directory: str, unwanted_dirs: Iterable[str]) -> bool:
        """Whether a directory belongs into an archive."""
        return directory not in unwanted_dirs and not directory.startswith(".")

    @staticmethod
    def file_filter(current_file: str, files_to_exclude: set[str]) -> bool:
        """Whether a file belongs into an archive."""
        files_to_exclude.add("MANIFEST.json")
        unwanted = current_file.endswith((".pyc", ".DS_Store", ".mar"))
        return current_file not in files_to_exclude and not unwanted

    @staticmethod
    def check_model_name_regex_or_exit(model_name: str) -> None:
        """Raise ModelArchiverError when a name has characters that are not allowed."""
        check_name(model_name, what="Model")

    @staticmethod
    def validate_inputs(model_name: str, export_path: str) -> None:
        """Raise ModelArchiverError when the name or the directory cannot be used."""
        check_name(model_name, what="Model")
        target_in(export_path, "", force=True)


def _single(path: str | None) -> Files:
    return {Path(path).name: existing(path)} if path else {}
