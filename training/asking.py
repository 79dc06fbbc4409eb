"""What the programs that look at a configured model ask for on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.config import TrainConfig, read_config
from training.data import load_data
from training.splits import DataSet


def config_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser for a config file and changed settings; add to it what a program needs besides."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting")
    return parser


def asked_for(given: argparse.Namespace) -> tuple[TrainConfig, DataSet]:
    """The configuration that was given, and its data.

    Raises:
        ConfigError: A setting is unknown or wrong.
        DataError: The data is missing or damaged.
    """
    config = read_config(given.config, overrides=given.overrides)
    return config, load_data(config.data, image=config.image, text=config.text)
