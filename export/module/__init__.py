"""Export of a user's own torch module: its recurrent layers' states become explicit, the rest is traced."""

from export.module.errors import ModuleError
from export.module.example import Example
from export.module.pipeline import export_module

__all__ = ["Example", "ModuleError", "export_module"]
