"""`torch-workflow-archiver`: a workflow's specification and functions as a `.war` file.

python -m flambeau.torchserve.workflow_archiver --workflow-name dogs --spec-file dogs.yaml
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import flambeau
from flambeau.torchserve.archive_files import (
    ArchiveFormat,
    Files,
    ModelArchiverError,
    add,
    check_name,
    existing,
    extra_files,
    target_in,
    write,
)
from flambeau.torchserve.archiver import created_on

MANIFEST_PATH = "WAR-INF/MANIFEST.json"
_log = logging.getLogger(__name__)


def archive_workflow(
    name: str,
    spec_file: str,
    *,
    handler: str | None = None,
    extra: str | None = None,
    export_path: str | None = None,
    force: bool = False,
) -> Path:
    """Make one `.war` file.

    Args:
        name: The workflow's name and the file's.
        spec_file: A YAML file with its models and their order.
        handler: A Python file with its functions.
        extra: More files, directories and patterns, separated by commas.
        export_path: The directory that the file is written to; None for the working directory.
        force: Overwrite a file that is there.

    Returns:
        The file.

    Raises:
        ModelArchiverError: A name or path that cannot be used, or a file that exists.
        FileNotFoundError: A file that should go in is not there.
        OSError: Something cannot be read or written.
    """
    check_name(name, what="Workflow")
    target = target_in(export_path, f"{name}.war", force=force)
    files: Files = {}
    for path in (spec_file, handler):
        if path:
            add(files, Path(path).name, existing(path))
    for extra_name, source in extra_files(extra, without=target).items():
        add(files, extra_name, source)
    workflow = {"workflowName": name, "specFile": Path(spec_file).name}
    document = {
        "createdOn": created_on(),
        "archiverVersion": f"flambeau {flambeau.__version__}",
        "workflow": workflow | ({"handler": Path(handler).name} if handler else {}),
    }
    content: dict[str, Path | bytes] = dict(sorted(files.items()))
    content[MANIFEST_PATH] = json.dumps(document, indent=2).encode()
    write(target, content, ArchiveFormat.DEFAULT, top=name)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `torch-workflow-archiver`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="torch-workflow-archiver", description="Put a workflow's files into an archive."
    )
    add_flag = parser.add_argument
    add_flag("--workflow-name", required=True, help="the workflow's name and the archive's")
    add_flag("--spec-file", required=True, help="a YAML file with its models and their order")
    add_flag("--handler", help="a Python file with its functions")
    add_flag("--extra-files", help="more files, directories and patterns, separated by commas")
    add_flag("--export-path", help="where the archive is written (default: here)")
    add_flag("-f", "--force", action="store_true", help="overwrite an archive that is there")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s - %(message)s", stream=sys.stderr)
    try:
        archive_workflow(
            args.workflow_name,
            args.spec_file,
            handler=args.handler,
            extra=args.extra_files,
            export_path=args.export_path,
            force=args.force,
        )
    except (ModelArchiverError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
