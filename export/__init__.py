"""export: a federated checkpoint -> a folder that reads expressions without torch (see docs/edge.md)."""
