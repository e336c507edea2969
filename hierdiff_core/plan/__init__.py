"""Which prompts share which step. Numbers only: numpy and SciPy, no torch."""
