"""Write the JSON Schema of state files, which editors read, from the table of their keys."""

from __future__ import annotations

import json
from pathlib import Path

from bpfpin.sets.apply import keys

TARGET = Path(keys.__file__).with_name("state.schema.json")


def main() -> None:
    """Write the file."""
    TARGET.write_text(json.dumps(keys.json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
