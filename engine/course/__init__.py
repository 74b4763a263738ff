"""The course of a run, as plain arithmetic: its steps and rates, whether its loss keeps to its path, what to advise. Knows neither
rows nor torch."""
