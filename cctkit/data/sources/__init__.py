"""Where images come from: folders, archives, downloads."""
