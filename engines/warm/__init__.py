"""Workers that stay after their command, with the model loaded, for the next one."""
