"""What a hostile pod, peer, store or local user may cost others at most."""
