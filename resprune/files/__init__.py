"""Files: written beside their place and renamed; JSON that may come from anyone.

Knows nothing of the library but its errors.
"""

from __future__ import annotations

from resprune.files.atomic import publish, write_bytes, write_text, written_beside
from resprune.files.jsonfile import MAX_FILE_BYTES, read_json, write_json, write_json_files

__all__ = [
    "MAX_FILE_BYTES",
    "publish",
    "read_json",
    "write_bytes",
    "write_json",
    "write_json_files",
    "write_text",
    "written_beside",
]
