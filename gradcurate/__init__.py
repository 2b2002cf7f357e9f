"""gradcurate."""
