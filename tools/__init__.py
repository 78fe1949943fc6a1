"""Programs that build, check and release vxland. The package contains none of them."""
