"""Helpers of several tests: frames.py builds frames, fabric.py joins nodes, corpus.py makes damaged frames."""
