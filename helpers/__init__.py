"""Training, scoring, detection: everything around the models."""
