"""What SAEs recover of planted dictionaries."""
