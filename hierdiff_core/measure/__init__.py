"""What sharing costs and changes, measured on a model."""
