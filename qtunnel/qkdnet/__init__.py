"""A network of QKD links and trusted nodes: what its links make, how keys are relayed, who learned what. Sans-IO."""
