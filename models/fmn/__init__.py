"""Frame-wise MobileNets."""
