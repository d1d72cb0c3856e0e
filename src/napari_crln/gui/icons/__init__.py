"""The plugin's icon, for light and for dark themes."""
