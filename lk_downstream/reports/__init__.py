"""From plain data (numbers, texts, NumPy arrays) to tables, figures, files and pages; no PyTorch, no Lightning."""
