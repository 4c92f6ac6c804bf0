"""What the tunnel engine carries and costs, next to another one, in one run on this machine: ``qtunnel bench``."""
