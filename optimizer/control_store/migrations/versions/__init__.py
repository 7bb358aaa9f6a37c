"""One module for each step, named ``v<number>_<what>``."""
