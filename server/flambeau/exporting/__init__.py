"""From a model in Python to an archive that is proved to compute the same.

`module.py` exports a live module (`flambeau.export`), `checkpoint.py` a file that training wrote,
`command.py` is `flambeau export`. Importing this package, and `command`, does not import torch.
"""
