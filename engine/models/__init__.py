"""What can be fine-tuned: one model described, and the models that lie on this machine."""
