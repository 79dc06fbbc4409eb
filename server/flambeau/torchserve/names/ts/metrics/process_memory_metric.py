"""Memory of processes."""

from flambeau.torchserve.metrics.machine import check_process_mem_usage, get_cpu_usage

__all__ = ["check_process_mem_usage", "get_cpu_usage"]
