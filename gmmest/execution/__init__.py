"""Maps over blocks; results always come back in block order."""
