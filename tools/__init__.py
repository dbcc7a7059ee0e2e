"""Programs for those who work on Trimtab; no part of the product."""
