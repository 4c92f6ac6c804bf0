"""Key source drivers. Each is one module with a ``DRIVER``; others come by the entry point group
``qtunnel.drivers``.
"""
