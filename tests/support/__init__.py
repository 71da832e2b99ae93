"""What tests share: builders of objects and tables, servers that are real, fake or sick, and the lab."""
