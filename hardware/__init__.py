"""What this machine has. Probes return values that say when something could not be read; they never raise or print."""
