"""Files that are read and written: policies, data folders, where they come from."""
