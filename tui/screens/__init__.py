"""The wizard's screens, one file a step."""
