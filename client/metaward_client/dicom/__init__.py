"""DICOM files: find them, read their headers within bounds, decode their pixels."""
