"""Runners, one file per runtime. `opening.py` lists them."""
