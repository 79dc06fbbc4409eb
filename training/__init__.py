"""Train a PyTorch model from a checkout: `python -m training.train CONFIG key=value ...`.

Start reading at `train.py`, the loop from top to bottom. `config.py` says what can be set,
`data.py` what is learnt from, `models.py` what learns; `checkpoint.py` keeps what was learnt, in a
file that is all `flambeau export` needs.
"""
