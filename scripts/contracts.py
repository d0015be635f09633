"""A contract type of our own for import-linter: packages that import the standard library and ours only.

Its stock `forbidden` contract asks for a list of the vendors that are forbidden; this one needs no list.
"""

from __future__ import annotations

import sys
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class StandardLibraryContract(Contract):
    """Kept when no module below `source_modules` imports a package from outside of Python and of ours.

    `except_for` are packages that they may import all the same.
    """

    source_modules = fields.ListField(subfield=fields.StringField())
    except_for = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        own = set(self.session_options["root_packages"])
        allowed = own | sys.stdlib_module_names | set(cast("list[str] | None", self.except_for) or ())
        found = [
            (importer, imported)
            for package in cast("list[str]", self.source_modules)
            for importer in sorted({package, *graph.find_descendants(package)})
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.split(".")[0] not in allowed
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["found"]:
            output.print_error(f"{importer} imports {imported}, which is not in the standard library.")
