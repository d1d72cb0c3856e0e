"""Icons of the plugin, for light and dark themes."""
