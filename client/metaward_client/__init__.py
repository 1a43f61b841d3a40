"""What a hospital installs: DICOM, the hospital's own data, release of updates, the ClientApp."""
