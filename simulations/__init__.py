"""A researcher's machine: procedural faces, simulated hospitals, engines, the demo and its report."""
