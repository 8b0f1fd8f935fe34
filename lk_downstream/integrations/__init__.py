"""The backbones inside other projects' pipelines; each module is imported by whoever uses that project."""
