"""Prints the machine's state, then the memory of processes named on standard input."""

import logging
import sys

from flambeau.torchserve.metrics.machine import check_process_mem_usage, collect_all

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    collect_all()
    check_process_mem_usage(sys.stdin)
