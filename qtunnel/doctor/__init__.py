"""What a host lacks to run a gateway: checks that change nothing and take no key."""
