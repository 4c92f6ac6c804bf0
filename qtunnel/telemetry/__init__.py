"""What the daemon tells the outside: logs, and later metrics and audit records."""
