"""`python -m meshkit`."""

from __future__ import annotations

from meshkit.cli.main import main

main()
