"""Processes, sharding, optimizer steps and checkpoints."""
