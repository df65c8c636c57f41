"""The doors of gmmest: what rows of a frame, a file or plain arrays become before a kernel sees them."""
