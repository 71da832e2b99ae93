"""The stages of a migration, a module for each notebook: look, check, plan, apply, prove."""
