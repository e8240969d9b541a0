"""The steps of `gpu_accept.py`, each run in a process of its own."""
