"""Texts as code points: tables, tries, patterns and normal forms."""
