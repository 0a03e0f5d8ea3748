"""A bundle on a device: place its layers, program them, measure corrections, run. Shared by compiler and agent."""
