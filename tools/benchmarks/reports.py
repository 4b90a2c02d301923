"""Writes the reports of benchmarks."""

import json
from pathlib import Path


def write_json(path: str | Path, report: dict) -> Path:
    """Writes a report as JSON, and creates its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + '\n')
    return path
