"""From committed results to a page: comparisons, figures, sections, files."""
