"""What several tests share: frames.py builds frames, fabric.py joins nodes, corpus.py makes damaged ones."""
