"""What training is, without a screen: answers -> RunConfig -> ResumePlan -> Trainer -> events."""

__version__ = "0.1.0"
