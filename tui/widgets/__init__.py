"""Parts of the wizard's screens that are more than one screen's business."""
