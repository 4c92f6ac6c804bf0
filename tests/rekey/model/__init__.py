"""Two whole gateways, sans-IO, under whatever hypothesis thinks of: plan, world, and the rules that must hold."""
