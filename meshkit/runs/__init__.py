"""Running the stage notebooks headless, and the evidence that a run leaves behind."""
