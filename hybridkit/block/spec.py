"""`Spec` for blocks and windows; it stands in `system`, since names of sources and tokenizers need no torch."""

from hybridkit.system.spec import ALL, Argument, Spec, Value, write_value

__all__ = ["ALL", "Argument", "Spec", "Value", "write_value"]
