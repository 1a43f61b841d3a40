"""Bring researchers' image collections (npz, picture folders, tables) into DICOM hospitals."""
