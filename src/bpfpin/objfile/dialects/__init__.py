"""Dialects of map definitions, one module each; `objfile/reader.py` chooses by the section."""
