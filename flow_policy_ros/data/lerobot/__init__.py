"""LeRobot datasets (v3.0 and v2.1): written from recordings, and read back. Without LeRobot, torch, or the network."""
