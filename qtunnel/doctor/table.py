"""All checks, in the order in which they are shown."""

from __future__ import annotations

from qtunnel.doctor import file_checks, kernel_checks, network_checks
from qtunnel.doctor.model import Check

CHECKS = (
    Check("tun", "TUN device", kernel_checks.tun),
    Check("offload", "bursts of datagrams", kernel_checks.offload),
    Check("wireguard", "the kernel's WireGuard", kernel_checks.wireguard),
    Check("namespaces", "network namespaces", kernel_checks.namespaces),
    Check("capability", "rights", kernel_checks.capability),
    Check("swap", "keys and swap", kernel_checks.swap),
    Check("clock", "clock", kernel_checks.clock),
    Check("secrets", "secret files", file_checks.secrets, config=True),
    Check("certificates", "certificates", file_checks.certificates, config=True),
    Check("directories", "state directory", file_checks.directories, config=True),
    Check("kems", "KEMs", file_checks.kems, config=True),
    Check("ports", "ports", network_checks.ports, config=True),
    Check("sources", "key sources", network_checks.sources, config=True),
    Check("peers", "peers", network_checks.peers, config=True),
    Check("mtu", "packet sizes", network_checks.mtu, config=True),
)
