"""Programs for devices: one folder a target, and what targets share."""
