"""The audit log on the disk: its files, the thread that writes them, and reading them back."""
